"""Core ML: ML programs, made on any system and run on Apple's alone.

Elsewhere a saved program can be read back and interpreted (`interpreter.py`), which checks the converter but
not Apple's kernels. Core ML chooses its threads by itself: `Settings.threads` has no effect. Importing
coremltools imports torch where it is installed.
"""

from __future__ import annotations

import gc
import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes.base import (
    NoProfilerError,
    OneByOne,
    Session,
    Settings,
    Trace,
    Traced,
    UnsupportedOperatorError,
    as_float32,
    last_line,
    missing,
)
from efficientformer.runtimes.coreml.package import About, describe, specification
from efficientformer.runtimes.silence import quiet_python

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "FLOAT32", "fp16": "FLOAT16"}
UNITS = {"cpu": "CPU_ONLY", "all": "ALL"}  # coremltools' names of compute units
TARGET = "iOS16"  # the oldest systems that the programs run on: iOS 16, macOS 13


class CoreMl(OneByOne):
    """ML programs, run by Core ML."""

    name = "coreml"
    packages = ("coremltools",)
    extra = "coreml"
    suffix = ".mlpackage"
    devices = ("cpu", "all")
    precisions = ("fp32", "fp16")

    def trouble(self, device: str = "cpu") -> str | None:
        """None on macOS with coremltools; otherwise why files cannot be run."""
        if device not in self.devices:
            return f"Core ML is used on {', '.join(self.devices)}, not on {device}"
        if sys.platform != "darwin":
            return missing(self) or "Core ML runs on macOS only; its files can be exported and checked here"
        return missing(self)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The package's folder."""
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module as a package. Its input and output are float32 in both precisions."""
        if precision not in PRECISIONS:
            raise InputError(f"coreml has no precision {precision!r}; known: {', '.join(PRECISIONS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".coreml-") as folder:
            made = Path(folder) / f"new{self.suffix}"
            with quiet_python():
                _convert(traced, made, precision)
            if path.exists():
                path.rename(Path(folder) / f"old{self.suffix}")
            made.rename(path)

    def load(self, path: Path, settings: Settings) -> CoreMlSession:
        """A program on its compute units: the CPU, or all that Core ML finds.

        Raises:
            InputError: if it is no package, or this is not macOS.
        """
        about = describe(specification(path))
        trouble = self.trouble(settings.device)
        if trouble:
            raise InputError(f"{path}: {trouble}")
        return CoreMlSession(path, about, settings)

    def check_session(self, path: Path) -> Session:
        """A session that interprets a program with torch, on any system: for comparisons, not for timing."""
        from efficientformer.runtimes.coreml.interpreter import InterpretedSession

        return InterpretedSession(path)

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """Raise: Core ML gives programs no times of operators.

        `MLComputePlan` gives the share of each that Core ML expects, before anything runs.
        """
        raise NoProfilerError("Core ML tells a program only estimates of its operators' costs, no times")


class CoreMlSession:
    """One loaded program."""

    def __init__(self, path: Path, about: About, settings: Settings) -> None:
        self._path, self._about = path, about
        with quiet_python():
            coremltools = importlib.import_module("coremltools")
            units = coremltools.ComputeUnit[UNITS[settings.device]]
            try:
                self._model = coremltools.models.MLModel(str(path), compute_units=units)
            except Exception as error:  # Core ML's own, of any class
                raise InputError(f"{path}: Core ML cannot load it: {last_line(error)}") from None

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, batch first."""
        return self._about.shape

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._about.float32

    def run(self, array: np.ndarray) -> np.ndarray:
        """The output for one float32 input."""
        return as_float32(self._model.predict({self._about.input: array})[self._about.output])


def _convert(traced: Traced, path: Path, precision: str) -> None:
    coremltools = importlib.import_module("coremltools")
    program = _exported(traced)
    try:
        coremltools.convert(
            program,
            convert_to="mlprogram",
            compute_precision=getattr(coremltools.precision, PRECISIONS[precision]),
            minimum_deployment_target=getattr(coremltools.target, TARGET),
            skip_model_load=True,
            package_dir=str(path),
        )
        return
    except Exception as error:  # NotImplementedError, but others too for operators it knows in part
        reason = last_line(error)
    gc.collect()  # a temporary folder of the converter's goes now, while its warning of that is caught
    raise UnsupportedOperatorError(f"Core ML's converter refuses the network: {reason}")


def _exported(traced: Traced) -> Any:
    """The module as torch exports it, but for what coremltools does not know, or gets wrong."""
    import torch

    def added(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, value: float = 1) -> torch.Tensor:
        return x + y * z if value == 1 else x + value * y * z

    def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
        if approximate != "tanh":
            return NotImplemented
        return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x.pow(3))))  # √(2/π)

    aten = torch.ops.aten
    table: dict[Any, Any] = {
        aten.addcmul.default: added,
        aten.gelu.default: gelu,
    }  # it takes any GELU for exact
    with torch.no_grad():
        exported = torch.export.export(traced.module.eval(), (torch.zeros(traced.shape),))
        return exported.run_decompositions(table)
