"""The runtimes: a package each, with the functions of `Runtime`. A new one is a package and a line here."""

from efficientformer.errors import InputError
from efficientformer.runtimes.base import (
    MissingRuntimeError,
    NoProfilerError,
    Operator,
    Runtime,
    Session,
    Settings,
    Trace,
    Traced,
    UnsupportedOperatorError,
    version,
)
from efficientformer.runtimes.coreml import CoreMl
from efficientformer.runtimes.executorch import ExecuTorch
from efficientformer.runtimes.ncnn import Ncnn
from efficientformer.runtimes.onnxruntime import OnnxRuntime
from efficientformer.runtimes.openvino import OpenVino
from efficientformer.runtimes.pytorch import Compiled, PyTorch
from efficientformer.runtimes.tflite import TfLite

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        OnnxRuntime(),
        OpenVino(),
        TfLite(),
        ExecuTorch(),
        Ncnn(),
        CoreMl(),
        PyTorch(),
        Compiled(),
    )
}
"""Every runtime by the name it has in a target."""


def usable(name: str, device: str = "cpu") -> Runtime:
    """A runtime that can run files on a device of this machine.

    Raises:
        InputError: if there is none of that name.
        MissingRuntimeError: if it is not installed, or does not work here.
    """
    if name not in RUNTIMES:
        raise InputError(f"runtime {name!r} is not known; known: {', '.join(RUNTIMES)}")
    trouble = RUNTIMES[name].trouble(device)
    if trouble:
        raise MissingRuntimeError(f"{name}: {trouble}")
    return RUNTIMES[name]


__all__ = [
    "RUNTIMES",
    "MissingRuntimeError",
    "NoProfilerError",
    "Operator",
    "Runtime",
    "Session",
    "Settings",
    "Trace",
    "Traced",
    "UnsupportedOperatorError",
    "usable",
    "version",
]
