"""An exported file with its proof: what it differs from PyTorch by. It fails closed."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from efficientformer.errors import InputError, PromiseError
from efficientformer.latency.process import Process
from efficientformer.latency.target import Target
from efficientformer.model.deploy import fold
from efficientformer.model.network import EfficientFormer
from efficientformer.runtimes import RUNTIMES, MissingRuntimeError, Runtime, Session, Traced
from efficientformer.runtimes.base import missing

BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 3e-1}
"""Largest difference of a logit, over the largest logit, put up with, by precision (docs/latency.md)."""

UNTRAINED_BOUND = 1.0
"""The same for int8 with random weights, which quantise badly (docs/latency.md), where only time counts."""

AGREEMENT = {"fp32": 0.98, "fp16": 0.95, "bf16": 0.95, "int8": 0.90}
"""Least share of real images on which the top-1 class must stay the same, by precision."""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_WHOLE = 0.9  # of the weights' bytes must be in the file: batch norms and unused tables may be gone


class ExportMismatchError(PromiseError):
    """An exported file does not compute what the network computes."""


@runtime_checkable
class Interpreted(Protocol):
    """A runtime whose files can be computed here even where they cannot be run (Core ML on Linux)."""

    def check_session(self, path: Path) -> Session:
        """A slow session for the numeric check."""
        ...


@dataclass(frozen=True)
class Artefact:
    """An exported file and how it compares with PyTorch.

    Attributes:
        path: the file.
        target: what it was exported for.
        size_bytes: of all its files.
        seconds: that the export took.
        max_difference: largest difference of a logit, over the largest logit.
        bound: the most that was allowed.
        images: how many images the comparison used.
        photographs: whether they were real ones and the weights trained, so that agreement means something.
        agreement: share of them with the same top-1 class.
    """

    path: str
    target: str
    size_bytes: int
    seconds: float
    max_difference: float
    bound: float
    images: int
    photographs: bool
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self)


def export(
    network: nn.Module,
    path: Path,
    target: Target,
    images: Tensor,
    *,
    photographs: bool = True,
    calibration: Tensor | None = None,
    bound: float | None = None,
) -> Artefact:
    """Fold (networks of ours), export, run in a process of its own, and compare.

    Args:
        network: what to export.
        path: the file to write; files beside it have the same stem. What is there is replaced at the end.
        target: what for.
        images: (n, channels, height, width), normalised as in training; the outputs are compared on them.
        photographs: whether they are real images and the weights trained: then top-1 classes must agree, too.
        calibration: images that int8 takes its ranges from; not those it is compared on.
        bound: the largest difference put up with; the precision's in `BOUNDS` by default.

    Raises:
        ExportMismatchError: if the file's outputs differ from the network's by more than the precision's
            bound, or the file is too small to hold the network's weights.
        MissingRuntimeError: if the runtime's packages are not installed.
        UnsupportedOperatorError: if the runtime's converter cannot express the network.
    """
    runtime, network = RUNTIMES[target.runtime], network.eval()
    bound = BOUNDS[target.precision] if bound is None else bound
    if lacking := missing(runtime):
        raise MissingRuntimeError(f"{target.runtime}: {lacking}")
    folded = fold(network) if isinstance(network, EfficientFormer) else network
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unchecked-") as folder:
        unchecked, begun = Path(folder) / path.name, time.perf_counter()
        ranges = None if calibration is None else calibration.contiguous().numpy()
        runtime.export(Traced(folded, (1, *images.shape[1:])), unchecked, target.precision, ranges)
        seconds = time.perf_counter() - begun
        with torch.no_grad():
            wanted = torch.cat([network(image[None]) for image in images]).numpy()
        given = _outputs(runtime, unchecked, target, images.contiguous().numpy())
        size = size_of(runtime, unchecked)
        _check_size(path, size, folded, target)
        difference = _difference(path, given, wanted, target, bound)
        agreement = float((given.argmax(1) == wanted.argmax(1)).mean())
        if photographs:
            _check_agreement(path, agreement, len(images), target)
        _move(runtime, unchecked, path)
    return Artefact(
        path.name, str(target), size, seconds, difference, bound, len(images), photographs, agreement
    )


def size_of(runtime: Runtime, path: Path) -> int:
    """Bytes of all files of an artefact; a folder's contents count."""
    inside = [one for file in runtime.files(path) for one in (file.rglob("*") if file.is_dir() else [file])]
    return sum(one.stat().st_size for one in inside if one.is_file())


def random_images(image: tuple[int, ...], count: int = 2) -> Tensor:
    """Numbers like those of normalised images, the same each time: (count, channels, height, width)."""
    return torch.randn(count, *image, generator=torch.Generator().manual_seed(0))


def _outputs(runtime: Runtime, path: Path, target: Target, images: np.ndarray) -> np.ndarray:
    trouble = runtime.trouble(target.device)
    if trouble is None:
        with Process(path, target) as process:
            return process.run(images)
    if isinstance(runtime, Interpreted):
        session = runtime.check_session(path)
        return np.concatenate([session.run(image[None]) for image in images])
    raise InputError(f"{target.runtime}: {trouble}")


def _difference(path: Path, given: np.ndarray, wanted: np.ndarray, target: Target, bound: float) -> float:
    if given.shape != wanted.shape:
        raise ExportMismatchError(f"{path}: gives {given.shape[1:]}, the network {wanted.shape[1:]}")
    difference = float(np.abs(given - wanted).max() / max(np.abs(wanted).max(), 1e-12))
    if not difference <= bound:  # NaN fails as well
        raise ExportMismatchError(
            f"{path}: the outputs under {target.runtime} differ from PyTorch's by {difference:.2e} of the "
            f"largest; at most {bound:g} is allowed in {target.precision}"
        )
    return difference


def _check_agreement(path: Path, agreement: float, images: int, target: Target) -> None:
    least = AGREEMENT[target.precision]
    if agreement < least:
        raise ExportMismatchError(
            f"{path}: the top-1 class under {target.runtime} is PyTorch's on {agreement:.1%} of {images} "
            f"images; at least {least:.0%} is asked in {target.precision}"
        )


def _check_size(path: Path, size: int, module: nn.Module, target: Target) -> None:
    weights = sum(part.numel() for part in module.parameters() if part.ndim > 1)
    least = int(_WHOLE * BYTES[target.precision] * weights)
    if size < least:
        raise ExportMismatchError(
            f"{path}: {size} bytes cannot hold the network's {weights} weights in {target.precision}: "
            "the converter left part of it out"
        )


def _move(runtime: Runtime, unchecked: Path, path: Path) -> None:
    """Put the artefact's files where they belong, the main one last."""
    for source in reversed(runtime.files(unchecked)):
        destination = path.parent / source.name
        if destination.is_dir():
            shutil.rmtree(destination)
        source.replace(destination)
