"""What a person can name to be measured: a zoo model, a `timm/` peer, a run, an exported file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.process import Process
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import randomise_vectors, untrained
from efficientformer.model.checkpoint import load_model
from efficientformer.presets import PRESETS
from efficientformer.runtimes import RUNTIMES

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
        identity: what its weights and shape follow from, for telling whether an export of it is at hand.
        build: makes the network; None if there are only exported files.
        files: exported files that stand for it, by runtime.
        reduced: those of other precisions than float32 that a run left, by runtime and precision.
    """

    name: str
    image: Image
    params: int | None
    macs: int | None
    identity: str
    build: Callable[[], nn.Module] | None
    files: Mapping[str, Path]
    reduced: Mapping[tuple[str, str], Path] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """Its name, fit for a file's."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", Path(self.name).name)[:60] or "network"

    def deployed(self, target: Target) -> Path | None:
        """The file that a run left for a target, which is what its network is deployed as."""
        if target.precision == "fp32":
            return self.files.get(target.runtime)
        return self.reduced.get((target.runtime, target.precision))

    def file(self, target: Target) -> Path:
        """The exported file for a target.

        Raises:
            InputError: if there is none.
        """
        if target.runtime not in self.files:
            kept = ", ".join(f"{path.name} ({runtime})" for runtime, path in self.files.items())
            raise InputError(f"{self.name}: is a file of another runtime than {target.runtime}: {kept}")
        return self.files[target.runtime]


def subject(name: str, input_size: int | None = None, targets: Sequence[Target] = ()) -> Subject:
    """What a name stands for; a network without weights of its own gets random ones.

    Args:
        name: a preset, `timm/NAME`, an `architecture.json`, a `.safetensors` file of ours, an exported file,
            or a run's folder, which stands for its exported file and, under other runtimes, its weights.
        input_size: pixels of a side; by default the model's own.
        targets: where it is to run; an exported file is looked into as the first of its runtime would run it.

    Raises:
        InputError: if the name stands for nothing.
    """
    path = Path(name)
    if path.is_dir() and not runtime_of(path):
        return _run(name, path, input_size)
    if path.exists() and (runtime := runtime_of(path)):
        where = next((target for target in targets if target.runtime == runtime), Target(runtime))
        return _file(name, path, where, input_size)
    if path.is_file() and path.suffix == ".json":
        return _untrained(name, read_architecture(path), input_size)
    if path.is_file() and path.suffix == ".safetensors":
        return _trained(name, path, {}, input_size)
    if name in PRESETS:
        return _untrained(name, PRESETS[name], input_size)
    if name.startswith(TIMM):
        return _peer(name, input_size)
    if runtime_of(path):
        raise InputError(f"{name}: no such file")
    known = f"{', '.join(PRESETS)}, timm/NAME, a run's folder, an architecture.json or an exported file"
    raise InputError(f"model {name!r} is not known; give one of {known}")


def runtime_of(path: Path) -> str | None:
    """The runtime whose files end like this one; of two that fit, the longer ending."""
    fitting = [runtime for runtime in RUNTIMES.values() if path.name.endswith(runtime.suffix)]
    return max(fitting, key=lambda runtime: len(runtime.suffix)).name if fitting else None


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


def _untrained(name: str, architecture: Architecture, input_size: int | None) -> Subject:
    architecture = _sized(architecture, input_size)
    identity = json.dumps(architecture.to_json(), sort_keys=True)
    return _network(name, architecture, identity, lambda: untrained(architecture), {})


def _trained(name: str, path: Path, files: Mapping[str, Path], input_size: int | None) -> Subject:
    network = load_model(path)
    if input_size:
        network.set_input_size(input_size)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _network(name, network.architecture, digest, lambda: network, files)


def _network(
    name: str,
    architecture: Architecture,
    identity: str,
    build: Callable[[], nn.Module],
    files: Mapping[str, Path],
) -> Subject:
    image = (architecture.in_channels, *architecture.input_size)
    return Subject(name, image, architecture.params, architecture.macs, identity, build, files)


def _sized(architecture: Architecture, input_size: int | None) -> Architecture:
    if not input_size:
        return architecture
    return dataclasses.replace(architecture, input_size=(input_size, input_size))


def _run(name: str, folder: Path, input_size: int | None) -> Subject:
    """A run's folder: its exported files, its weights, or at least its architecture."""
    architecture = read_architecture(folder)
    own = input_size in (None, architecture.input_size[0])
    left = _left_by(folder) if own else {}
    files = {runtime: path for (runtime, precision), path in left.items() if precision == "fp32"}
    reduced = {key: path for key, path in left.items() if key[1] != "fp32"}
    weights = folder / "model.safetensors"
    made = (
        _trained(name, weights, {}, input_size)
        if weights.exists()
        else _untrained(name, architecture, input_size)
    )
    return dataclasses.replace(made, files=files, reduced=reduced)


def _left_by(folder: Path) -> dict[tuple[str, str], Path]:
    """A run's exported files by runtime and precision."""
    targets = [Target(one.name, precision=each) for one in RUNTIMES.values() for each in one.precisions]
    paths = {(one.runtime, one.precision): folder / one.file_name("model") for one in targets}
    return {key: path for key, path in paths.items() if path.exists()}


def _file(name: str, path: Path, target: Target, input_size: int | None) -> Subject:
    with Process(path, target) as process:
        shape, takes_float32 = process.shape, process.takes_float32
    batch, *image = shape
    if batch != 1 or len(image) != 3 or 0 in image:
        raise InputError(f"{path}: takes {shape}, not one image (1, channels, h, w)")
    if not takes_float32:
        raise InputError(f"{path}: takes other numbers than 32-bit floats; export it with a float32 input")
    shown = (image[0], image[1], image[2])
    if input_size and shown[1:] != (input_size, input_size):
        raise InputError(
            f"{path}: was exported for {shown[1]}×{shown[2]} pixels, not --input-size {input_size}"
        )
    return Subject(name, shown, None, None, "", None, {target.runtime: path})


def _peer(name: str, input_size: int | None) -> Subject:
    model, image = peer(name, input_size=input_size)
    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        macs = count_macs(model, image)
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{name}: does not run at {image[1]}×{image[2]} pixels ({why})") from None
    return Subject(name, image, params, macs, name, lambda: deployed_peer(name, input_size), {})


def deployed_peer(name: str, input_size: int | None = None, num_classes: int | None = None) -> nn.Module:
    """A timm model with random weights as it is deployed: branches merged, vectors away from 0 and 1.

    Args:
        name: `timm/NAME`.
        input_size: pixels of a side; its own by default.
        num_classes: outputs; its own number by default.
    """
    from timm.utils.model import reparameterize_model

    model, _ = peer(name, input_size=input_size, num_classes=num_classes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        randomise_vectors(model)
    return reparameterize_model(model).eval()


def peer(
    name: str, *, num_classes: int | None = None, input_size: int | None = None, seed: int = 0, **options: Any
) -> tuple[nn.Module, Image]:
    """A timm model, with random weights unless asked otherwise, and the image it takes.

    Args:
        name: `timm/NAME`.
        num_classes: outputs; its own number by default.
        input_size: pixels of a side; its own by default.
        seed: of the random weights.
        options: of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        InputError: if timm has no model of that name, or not at that size.
    """
    import timm

    short = name.removeprefix(TIMM)
    if short not in timm.list_models() and short not in timm.list_pretrained():
        near = ", ".join(timm.list_models(f"*{short[:8]}*")[:3])
        raise InputError(f"timm has no model {short!r}" + (f"; near: {near}" if near else ""))
    if num_classes is not None:
        options["num_classes"] = num_classes
    config = timm.get_pretrained_cfg(short)
    own = config.input_size if config else (3, 224, 224)
    if input_size and config and config.fixed_input_size and input_size != own[1]:
        options["img_size"] = input_size
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
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
