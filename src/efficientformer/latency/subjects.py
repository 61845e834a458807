"""What a person can name to be measured: a zoo model, a `timm/` peer, a run, an exported file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.artefact import network_runner, runner
from efficientformer.latency.runtimes import RUNTIMES
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.presets import PRESETS

TIMM = "timm/"
Image = tuple[int, int, int]
"""Channels, height and width of one image."""


@dataclass(frozen=True)
class Subject:
    """Something to be timed.

    Attributes:
        name: as it was given.
        image: (channels, height, width).
        params: learned parameters; None for an exported file.
        macs: multiply-accumulates for one image; None for an exported file.
        call: one inference.
    """

    name: str
    image: Image
    params: int | None
    macs: int | None
    call: Callable[[], object]


def subject(name: str, target: Target, input_size: int | None = None) -> Subject:
    """Load and export what a name stands for, with random weights where it has none of its own.

    Args:
        name: a preset, `timm/NAME`, an `architecture.json`, an exported file, or a run's folder, which stands
            for its exported file.
        target: where it will run.
        input_size: pixels of a side; by default the model's own.

    Raises:
        InputError: if the name stands for nothing.
    """
    path = Path(name)
    suffix = RUNTIMES[target.runtime].suffix
    exported = path if path.is_file() else path / f"model{suffix}"
    if exported.is_file() and exported.suffix == suffix:
        return _file(name, exported, target, input_size)
    if path.is_dir() or (path.is_file() and path.suffix == ".json"):
        return _network(name, read_architecture(path), target, input_size)
    if name in PRESETS:
        return _network(name, PRESETS[name], target, input_size)
    if name.startswith(TIMM):
        return _peer(name, target, input_size)
    known = f"{', '.join(PRESETS)}, timm/NAME, a run's folder, an architecture.json or an exported file"
    raise InputError(f"model {name!r} is not known; give one of {known}")


def read_architecture(path: Path) -> Architecture:
    """The architecture in a JSON file, or in a finished run's folder.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    file = path / "architecture.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: holds no architecture.json; give a finished run's folder")
    try:
        return Architecture.from_json(read_json(file))
    except ValueError as error:  # damaged JSON, or an architecture that does not fit
        raise InputError(f"{file}: {error}") from None


def _network(name: str, architecture: Architecture, target: Target, input_size: int | None) -> Subject:
    if input_size:
        architecture = dataclasses.replace(architecture, input_size=(input_size, input_size))
    image = (architecture.in_channels, *architecture.input_size)
    call = network_runner(untrained(architecture), target, image)
    return Subject(name, image, architecture.params, architecture.macs, call)


def _file(name: str, path: Path, target: Target, input_size: int | None) -> Subject:
    session = RUNTIMES[target.runtime].load(path, target.threads)
    batch, *image = session.shape
    if batch != 1 or len(image) != 3 or 0 in image or not session.takes_float32:
        raise InputError(f"{path}: takes {session.shape}, not one float32 image (1, channels, h, w)")
    shape = (image[0], image[1], image[2])
    if input_size and shape[1:] != (input_size, input_size):
        raise InputError(
            f"{path}: was exported for {shape[1]}×{shape[2]} pixels, not --input-size {input_size}"
        )
    known = read_architecture(path.parent) if path.parent == Path(name) else None  # a run's folder
    sizes = (known.params, known.macs) if known else (None, None)
    return Subject(name, shape, *sizes, runner(path, target, (1, *shape)))


def _peer(name: str, target: Target, input_size: int | None) -> Subject:
    model, image = peer(name, input_size=input_size)
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        macs = count_macs(model, image)
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{name}: does not run at {image[1]}×{image[2]} pixels ({why})") from None
    deployed = reparameterize_model(model)
    return Subject(name, image, params, macs, network_runner(deployed, target, image))


def peer(
    name: str, *, num_classes: int | None = None, input_size: int | None = None
) -> tuple[nn.Module, Image]:
    """A timm model with random weights, and the image it takes.

    Raises:
        InputError: if timm has no model of that name, or not at that size.
    """
    short = name.removeprefix(TIMM)
    if short not in timm.list_models():
        near = ", ".join(timm.list_models(f"*{short[:8]}*")[:3])
        raise InputError(f"timm has no model {short!r}" + (f"; near: {near}" if near else ""))
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    config = timm.get_pretrained_cfg(short)
    own = config.input_size if config else (3, 224, 224)
    if input_size and config and config.fixed_input_size and input_size != own[1]:
        options["img_size"] = input_size
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model(short, **options).eval()
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(f"{name}: timm cannot build it at {input_size} pixels ({error})") from None
    return model, (own[0], input_size or own[1], input_size or own[2])


@torch.no_grad()
def count_macs(module: nn.Module, image: Image) -> int:
    """Multiply-accumulates of any module for one image, counted by torch while it runs."""
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *image))
    return counter.get_total_flops() // 2
