"""One network as files for several runtimes: each checked on images, timed, and listed with its figures.

    efficientformer export runs/mine --to onnxruntime,openvino,tflite --images photos

A runtime that fails does not stop the others; what failed, and why, is in the list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from efficientformer.data.sources.folder import is_image
from efficientformer.errors import InputError, PromiseError
from efficientformer.evaluation.classifier import Classifier, classifier
from efficientformer.evaluation.preparation import of_config, of_run
from efficientformer.latency.artefact import Artefact, export, random_images
from efficientformer.latency.measure import measure_files
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.subjects import TIMM, deployed_peer, peer, read_architecture
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.model.pretrained import create_transform
from efficientformer.named import load_network, run_of
from efficientformer.predict import open_picture
from efficientformer.presets import PRESETS
from efficientformer.progress import Progress
from efficientformer.runtimes import RUNTIMES

FORMAT = "efficientformer.export/1"
CHECKED, CALIBRATED = 64, 128  # images
Prepare = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Model:
    """A network to ship.

    Attributes:
        name: of its files.
        network: in evaluation mode.
        image: (channels, height, width) that it takes.
        prepare: from an RGB picture to one such.
        trained: whether its weights are; random ones otherwise, good for timing alone.
    """

    name: str
    network: nn.Module
    image: tuple[int, int, int]
    prepare: Prepare
    trained: bool


@dataclass(frozen=True)
class Shipped:
    """What became of one target.

    Attributes:
        target: where it is to run.
        artefact: the file with its check; None if there is none.
        latency: its receipt; None if it cannot be run here.
        error: why there is no artefact; empty if there is one.
        broken: whether the error is a file that computes something else, not a runtime that cannot.
        untimed: why there is no receipt; empty if there is one.
    """

    target: Target
    artefact: Artefact | None = None
    latency: Measurement | None = None
    error: str = ""
    broken: bool = False
    untimed: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "target": str(self.target),
            "artefact": self.artefact.to_json() if self.artefact else None,
            "latency": self.latency.to_json() if self.latency else None,
            "error": self.error or None,
            "untimed": self.untimed or None,
        }


def ship(
    model: Model, targets: Sequence[Target], out: Path, images: Path | None, progress: Progress
) -> list[Shipped]:
    """Export to each target in turn, check each file against PyTorch, then time each.

    Args:
        model: what to export.
        targets: what for.
        out: folder of the files.
        images: a folder of pictures, searched at any depth; two of three calibrate int8, the rest check. None
            checks on random numbers, and then int8 is refused.
        progress: told what happens.
    """
    check, calibration = (
        pictures(images, model, progress) if images else (random_images(model.image, 4), None)
    )
    shipped = []
    for number, target in enumerate(targets, 1):
        progress.line(f"── {target} ({number}/{len(targets)})")
        shipped.append(_one(model, target, out, check, calibration))
        progress.line(f"   {shipped[-1].error or 'exported and checked'}")
    return [_timed(one, out) for one in shipped]


def _one(model: Model, target: Target, out: Path, check: Tensor, calibration: Tensor | None) -> Shipped:
    path = out / target.file_name(model.name)
    try:
        proof = export(
            model.network,
            path,
            target,
            check,
            photographs=calibration is not None and model.trained,
            calibration=calibration,
        )
    except InputError as error:
        return Shipped(target, error=str(error))
    except PromiseError as error:
        return Shipped(target, error=str(error), broken=True)
    return Shipped(target, proof)


def _timed(shipped: Shipped, out: Path) -> Shipped:
    if shipped.artefact is None:
        return shipped
    target, path = shipped.target, out / shipped.artefact.path
    trouble = RUNTIMES[target.runtime].trouble(target.device)
    if trouble:
        return dataclasses.replace(shipped, untimed=trouble)
    try:
        return dataclasses.replace(shipped, latency=measure_files({path.name: path}, target)[path.name])
    except InputError as error:  # a crash while timing: the files of the others are kept
        return dataclasses.replace(shipped, untimed=str(error))


def pictures(folder: Path, model: Model, progress: Progress) -> tuple[Tensor, Tensor]:
    """Pictures as the network takes them: some to check on, others to calibrate on.

    Raises:
        InputError: if there are fewer than two.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with pictures")
    files = sorted(path for path in folder.rglob("*") if is_image(path))
    order = np.random.default_rng(0).permutation(len(files))
    taken: list[Tensor] = []
    for index in order:
        picture = open_picture(files[index])
        if isinstance(picture, str):
            progress.line(f"   unreadable, left out: {files[index]}: {picture}")
            continue
        taken.append(model.prepare(picture))
        if len(taken) == CHECKED + CALIBRATED:
            break
    if len(taken) < 2:
        raise InputError(f"{folder}: holds {len(taken)} readable pictures; give a folder of at least two")
    checked = max(1, len(taken) * CHECKED // (CHECKED + CALIBRATED))
    return torch.stack(taken[:checked]), torch.stack(taken[checked:])


def model_to_ship(name: str, pretrained: str | None = None, input_size: int | None = None) -> Model:
    """A network by what a person calls it.

    Args:
        name: a run's folder, a `.safetensors` file of ours, a preset, an `architecture.json`, or `timm/NAME`.
        pretrained: a preset's weights: a file, or `hub`; without, they are random.
        input_size: pixels of a side; the network's own by default.

    Raises:
        InputError: if the name stands for no network.
    """
    path = Path(name)
    short = path.name.removesuffix(".json").removesuffix(".safetensors") or "network"
    if pretrained and path.suffix == ".json":
        raise InputError(f"{name}: --pretrained is for presets and timm's networks")
    if (name.startswith(TIMM) and pretrained) or _is_trained_peer(path):
        return _peer(short, classifier(name, pretrained=pretrained, input_size=input_size))
    if name.startswith(TIMM):
        network, image = peer(name, input_size=input_size)
        config = getattr(network, "pretrained_cfg", {})
        prepare = of_config(name, config, image[1:]).prepare
        return Model(short, deployed_peer(name, input_size), image, prepare, False)
    if (name in PRESETS and not pretrained) or path.suffix == ".json":
        architecture = PRESETS[name] if name in PRESETS else read_architecture(path)
        network, trained = untrained(architecture), False
    else:
        network, trained = load_network(name, pretrained), True
    if input_size:
        network.set_input_size(input_size)
    run = run_of(path)
    prepare = of_run(run)[0].prepare if run else create_transform(network)
    architecture = network.architecture
    return Model(short, network, (architecture.in_channels, *architecture.input_size), prepare, trained)


def _is_trained_peer(path: Path) -> bool:
    run = run_of(path)
    return bool(run) and of_run(run)[2].startswith(TIMM)


def _peer(short: str, found: Classifier) -> Model:
    """A peer with weights, as it is deployed: branches merged."""
    from timm.utils.model import reparameterize_model

    network = reparameterize_model(cast(nn.Module, found.engine))
    network = network.to(memory_format=torch.contiguous_format)  # ty: ignore[no-matching-overload]
    side = found.protocol.crop
    return Model(short, network.eval(), (3, side, side), found.protocol.prepare, True)
