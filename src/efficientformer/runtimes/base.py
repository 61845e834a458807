"""What every runtime can do, and the values it deals in. Nothing here imports torch or a runtime.

A runtime's file is imported to list it, to measure with it in a process of its own, and to export with it;
only the last needs torch. So each imports its packages where it uses them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from efficientformer.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Traced:
    """A module to export, with the shape of the one tensor it takes, batch first."""

    module: nn.Module
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """How a file is run.

    Attributes:
        device: one of the runtime's devices.
        threads: how many threads one inference may use.
        precision: of weights and activations, one of the runtime's precisions.
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "fp32"


@dataclass(frozen=True)
class Operator:
    """One operator of a profiled network.

    Attributes:
        name: as the runtime calls it.
        kind: its type, in the runtime's words: `Conv`, `Softmax`, …
        ms: median milliseconds it takes in one inference.
        source: dotted path of the module it came from, such as `3.mlp.path.0`; empty if that is not known.
        detail: kernel, shapes or layouts, where the runtime tells; empty otherwise.
        role: `compute`; `convert` for a change of layout or number type that the runtime put in; `fallback`
            for a node that did not run where the rest did.
    """

    name: str
    kind: str
    ms: float
    source: str = ""
    detail: str = ""
    role: str = "compute"


@dataclass(frozen=True)
class Trace:
    """What a runtime's own profiler says of one network.

    Attributes:
        operators: every operator, in the order of their execution as far as it is known.
        whole_ms: samples of the whole inference while the profiler ran.
        profiler: its name.
    """

    operators: tuple[Operator, ...]
    whole_ms: tuple[float, ...]
    profiler: str


class MissingRuntimeError(InputError):
    """A runtime's packages are not installed, or do not load."""


class NoProfilerError(InputError):
    """The runtime, as it is distributed, cannot tell its operators' times."""


class UnsupportedOperatorError(InputError):
    """A runtime's converter has no counterpart for an operator of the network."""


class Session(Protocol):
    """A loaded file, ready to run."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, batch first; a free batch counts as 1, any other free dimension as 0."""
        ...

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        ...

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output, float32, for one float32 input of the exported shape. It waits for the device."""
        ...


class Runtime(Protocol):
    """An inference runtime."""

    @property
    def name(self) -> str:
        """What it is called in a target."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions it needs; the first one's version is the runtime's."""
        ...

    @property
    def extra(self) -> str:
        """The extra of ours that installs them; empty if they always are."""
        ...

    @property
    def suffix(self) -> str:
        """The ending of the file (or folder) that its artefacts are known by."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices it is used on, whether this machine has them or not."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions it is used with."""
        ...

    def trouble(self, device: str = "cpu") -> str | None:
        """None if files can be run here on a device; otherwise why not, and what to do about it."""
        ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """All the files of an artefact, its main one (or its folder) first."""
        ...

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module as an artefact with one input and one output.

        Args:
            traced: what to export.
            path: its main file; files beside it have the same stem.
            precision: one of `precisions`.
            calibration: (n, channels, height, width) float32, images as the network takes them, for int8.

        Raises:
            UnsupportedOperatorError: if the converter cannot express the module.
        """
        ...

    def export_many(
        self,
        traced: Sequence[Traced],
        folder: Path,
        precision: str = "fp32",
        calibration: Sequence[np.ndarray] = (),
    ) -> list[Path]:
        """Several small modules, each a file of its own in a folder; faster than one by one, where it can be.

        Args:
            traced: what to export.
            folder: of the files.
            precision: one of `precisions`.
            calibration: for int8, what each module is calibrated on: (n, …) float32.
        """
        ...

    def load(self, path: Path, settings: Settings) -> Session:
        """An artefact, ready to run.

        Raises:
            InputError: if it is not one of this runtime's, or cannot be run.
        """
        ...

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """Run an artefact so many times under the runtime's own profiler.

        Raises:
            NoProfilerError: if it has none.
        """
        ...


def installed(package: str) -> str | None:
    """A distribution's version; None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(runtime: Runtime) -> str | None:
    """None if a runtime's packages are installed; otherwise which is not, and how to get it."""
    for package in runtime.packages:
        if installed(package) is None:
            ours = f"efficientformer[{runtime.extra}]" if runtime.extra else "efficientformer"
            return f"{package} is not installed; pip install '{ours}'"
    return None


def version(runtime: Runtime) -> str:
    """The runtime's version, `missing` if it is not installed."""
    return installed(runtime.packages[0]) or "missing"


class OneByOne:
    """A runtime whose converter gains nothing from a bundle: modules are exported one after another."""

    def export_many(
        self: Runtime,
        traced: Sequence[Traced],
        folder: Path,
        precision: str = "fp32",
        calibration: Sequence[np.ndarray] = (),
    ) -> list[Path]:
        """Several small modules, each a file of its own in a folder."""
        paths = [folder / f"{index}{self.suffix}" for index in range(len(traced))]
        images = each_calibration(traced, precision, calibration)
        for item, path, one in zip(traced, paths, images, strict=True):
            self.export(item, path, precision, one)
        return paths


def calibration_images(calibration: np.ndarray | None, image: Sequence[int]) -> np.ndarray:
    """The images that int8 takes its ranges from.

    Args:
        calibration: (n, channels, height, width), or None.
        image: what the network takes, without the batch.

    Raises:
        InputError: if there are none, or they are of another shape.
    """
    if calibration is None or len(calibration) == 0:
        raise InputError("int8 needs images to calibrate on; give --images DIR")
    if tuple(calibration.shape[1:]) != tuple(image):
        given, taken = calibration.shape[1:], tuple(image)
        raise InputError(f"images to calibrate on are {given}, the network takes {taken}")
    return calibration


def each_calibration(
    traced: Sequence[Traced], precision: str, calibration: Sequence[np.ndarray]
) -> list[np.ndarray | None]:
    """For each of several modules the images it is calibrated on; None where the precision needs none.

    Raises:
        InputError: as `calibration_images`.
    """
    if precision != "int8":
        return [None] * len(traced)
    given = [*calibration] or [None] * len(traced)
    return [calibration_images(one, item.shape[1:]) for one, item in zip(given, traced, strict=True)]


def last_line(error: BaseException) -> str:
    """The most telling line of an error of somebody else's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def random_image(shape: Sequence[int]) -> np.ndarray:
    """Numbers like those of a normalised image, the same each time."""
    return np.random.default_rng(0).standard_normal(tuple(shape), dtype=np.float32)


def as_float32(output: Any) -> np.ndarray:
    """An output of any float type as float32."""
    return np.ascontiguousarray(np.asarray(output), dtype=np.float32)
