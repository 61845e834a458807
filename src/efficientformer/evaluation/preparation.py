"""How a network's pictures were prepared, as far as its maker said so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efficientformer.errors import InputError
from efficientformer.evaluation.protocol import Protocol
from efficientformer.files import read_json
from efficientformer.latency.subjects import TIMM
from efficientformer.model.pretrained import pretrained_cfg
from efficientformer.named import run_of
from efficientformer.presets import PRESETS

Classes = tuple[str, ...] | None


def of_config(name: str, config: Mapping[str, Any], sides: tuple[int, int]) -> Protocol:
    """How timm prepares pictures for a network with this `pretrained_cfg`.

    Raises:
        InputError: if the network takes no squares.
    """
    from timm.data import resolve_data_config

    if sides[0] != sides[1]:
        raise InputError(f"{name}: takes {sides[0]}×{sides[1]} pixels; only squares are scored")
    data = resolve_data_config({"input_size": (3, *sides)}, pretrained_cfg=dict(config))
    resize = math.floor(sides[0] / data["crop_pct"])
    squash = data["crop_mode"] == "squash"
    return Protocol("own", resize, sides[0], data["interpolation"], data["mean"], data["std"], squash=squash)


def of_run(folder: Path) -> tuple[Protocol, tuple[str, ...], str]:
    """A finished run's preparation, its classes, and the name of its network: empty for ours, or `timm/NAME`.

    Raises:
        InputError: if its summary does not tell.
    """
    about = _document(folder / "summary.json")
    if "preprocessing" not in about or "classes" not in about:
        raise InputError(f"{folder / 'summary.json'}: does not say how pictures are prepared; is it a run's?")
    return Protocol.of_run(about["preprocessing"]), tuple(about["classes"]), str(about.get("model") or "")


def told_beside(path: Path, side: int) -> tuple[Protocol | None, Classes]:
    """What stands beside an exported file about its preparation and classes: its run, or its export.

    Args:
        path: the file.
        side: pixels of a side that it takes; a preparation for others is not its.
    """
    protocol, classes = None, None
    if path.name.startswith("model.") and run_of(path.parent):
        protocol, classes, _ = of_run(path.parent)
    else:
        for document in sorted(path.parent.glob("*.export.json")):
            about = _document(document)
            if any((one.get("artefact") or {}).get("path") == path.name for one in about.get("files", ())):
                protocol, classes = _of_exported(about, side)
    return (protocol if protocol and protocol.crop == side else None), classes


def _of_exported(about: Mapping[str, Any], side: int) -> tuple[Protocol | None, Classes]:
    """The preparation of the network that was exported: told, or known by its name."""
    model = str(about.get("model"))
    preset = model.partition(".")[0]
    if "preprocessing" in about:
        return Protocol.from_json({"name": "own", **about["preprocessing"]}), _names(about.get("classes"))
    if preset in PRESETS:
        return of_config(model, pretrained_cfg(PRESETS[preset], model), (side, side)), None
    if model.startswith(TIMM):
        from timm import get_pretrained_cfg

        config = get_pretrained_cfg(model.removeprefix(TIMM))
        return (of_config(model, config.to_dict(), (side, side)) if config else None), None
    run = run_of(Path(model))
    return of_run(run)[:2] if run else (None, None)


def _names(classes: Any) -> Classes:
    return tuple(map(str, classes)) if classes else None


def _document(path: Path) -> Mapping[str, Any]:
    try:
        about = read_json(path)
    except ValueError:
        raise InputError(f"{path}: is damaged; it is no JSON document") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: is not a document of ours")
    return about
