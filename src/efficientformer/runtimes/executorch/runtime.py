"""ExecuTorch with XNNPACK on the CPU: what PyTorch offers for phones."""

from __future__ import annotations

import importlib
import importlib.util
import re
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.runtimes.base import (
    NoProfilerError,
    OneByOne,
    Settings,
    Trace,
    Traced,
    UnsupportedOperatorError,
    as_float32,
    calibration_images,
    last_line,
    missing,
)
from efficientformer.runtimes.executorch.program import MAGIC, partition, partition_of
from efficientformer.runtimes.executorch.spellings import spellings
from efficientformer.runtimes.silence import quiet_native, quiet_python

LIBRARY = "executorch.extension.pybindings._portable_lib"
"""The bindings themselves: the module around them imports the whole converter, for three seconds."""
FLOAT32 = 6  # in ExecuTorch's numbering of number types


class ExecuTorch(OneByOne):
    """`.pte` files, their operators handed to XNNPACK as far as it takes them.

    Its bindings are linked against PyTorch: running a file loads torch too. There is no float16: XNNPACK
    has no GELU in it, and the whole was slower than float32 on x86.
    """

    name = "executorch"
    packages = ("executorch", "torchao")
    extra = "executorch"
    suffix = ".pte"
    devices = ("cpu",)
    precisions = ("fp32", "int8")
    _loaded: ClassVar[weakref.WeakSet[ExecuTorchSession]] = weakref.WeakSet()  # who uses the process's pool

    def trouble(self, device: str = "cpu") -> str | None:
        """None if files can be run here."""
        why = missing(self)
        if why:
            return why
        if device not in self.devices:
            return f"runs on the CPU only, not on {device}"
        if importlib.util.find_spec(LIBRARY) is None:
            return "executorch is installed without its Python bindings; take the wheel from PyPI"
        return None

    def files(self, path: Path) -> tuple[Path, ...]:
        """The one file: weights are inside."""
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module as a program with one method, `forward`.

        A few operators that XNNPACK would leave to slow kernels are first spelled in those that it takes.
        int8 is PT2E quantisation with XNNPACK's own quantiser, weights per channel; what XNNPACK has in
        float32 only (GELU, softmax, average pooling, products of two activations) stays float32.

        Raises:
            UnsupportedOperatorError: if an operator has no kernel in ExecuTorch.
            InputError: if int8 is asked for without images of the module's shape.
        """
        images = calibration_images(calibration, traced.shape[1:]) if precision == "int8" else None
        traced.module.eval()
        with quiet_python():
            program = _convert(traced, images)
        known = _library()._get_operator_names()
        for kernel in partition_of(program).fallback:
            if kernel not in known:
                raise UnsupportedOperatorError(f"ExecuTorch has no kernel for {kernel}")
        write_atomically(path, program)

    def load(self, path: Path, settings: Settings) -> ExecuTorchSession:
        """A program, ready to run on so many threads, the caller's among them.

        ExecuTorch has one thread pool in a process; a loaded program holds on to it and crashes if it is
        replaced. So all that is loaded at one time must want the same number of threads.

        Raises:
            InputError: if it is not a program that runs here, or others are loaded on more or fewer threads.
        """
        _check(path)
        library = _library()
        with quiet_native():
            self._size_pool(library, path, settings.threads)
            try:
                session = ExecuTorchSession(library._load_program(str(path)))
            except RuntimeError as error:
                raise InputError(f"{path}: ExecuTorch cannot load it: {last_line(error)}") from None
        self._loaded.add(session)
        return session

    def _size_pool(self, library: Any, path: Path, threads: int) -> None:
        now = library._threadpool_get_thread_count()
        if now == threads:
            return
        if self._loaded:
            raise InputError(
                f"{path}: cannot be run on {threads} thread(s): ExecuTorch has one pool in a process, and "
                f"files are loaded on {now}; load it in another process"
            )
        library._unsafe_reset_threadpool(threads)  # unsafe for what is loaded: nothing is

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """There is no profiler in the wheels: asked for events (`enable_etdump`), they write none.

        Raises:
            NoProfilerError: always; it tells which operators run outside XNNPACK (`partition`).
        """
        raise NoProfilerError(
            f"{path}: ExecuTorch's wheels are built without its event tracer, so no operator has a time; "
            f"known from the file: {partition(path)}"
        )


class ExecuTorchSession:
    """One loaded program with one input and one output."""

    def __init__(self, program: Any) -> None:
        import torch

        self._program = program  # the method does not keep it alive
        self._method = program.load_method("forward")
        self._input = self._method.method_meta().input_tensor_meta(0)
        self._tensor = torch.from_numpy

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape."""
        return tuple(self._input.sizes())

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._input.dtype() == FLOAT32

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output for one float32 input."""
        owned = np.require(array, np.float32, ["C", "W"])  # torch warns of arrays that are read-only
        return as_float32(self._method.call([self._tensor(owned)])[0].numpy())


def _library() -> Any:
    importlib.import_module("torch")  # first: the bindings take its libraries from the process
    return importlib.import_module(LIBRARY)


def _check(path: Path) -> None:
    """Refuse what is no ExecuTorch program; its own loader sees whether the file is whole."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if start[4:] != MAGIC:
        raise InputError(f"{path}: is not an ExecuTorch program")


def _convert(traced: Traced, images: np.ndarray | None) -> bytes:
    """Capture, spell differently, quantise if there are images, hand to XNNPACK, serialise."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = (torch.zeros(traced.shape),)
    with torch.no_grad():
        captured = torch.export.export(traced.module, example, strict=False).run_decompositions(spellings())
        if images is not None:
            captured = torch.export.export(_quantised(captured.module(), images), example, strict=False)
        try:
            lowered = to_edge_transform_and_lower(captured, partitioner=[XnnpackPartitioner()])
            return lowered.to_executorch().buffer
        except Exception as error:  # its error classes are not public
            operator = re.search(r"(?:Operator torch\._ops\.|Missing out variants: \{')([\w.:]+)", str(error))
            if operator is None:
                raise
            raise UnsupportedOperatorError(f"ExecuTorch has no counterpart for {operator[1]}") from None


def _quantised(module: Any, images: np.ndarray) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    scheme = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    prepared = prepare_pt2e(module, xnnpack_quantizer.XNNPACKQuantizer().set_global(scheme))
    for image in images:
        prepared(torch.from_numpy(np.ascontiguousarray(image[None], dtype=np.float32)))
    return convert_pt2e(prepared)
