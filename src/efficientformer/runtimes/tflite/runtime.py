"""TensorFlow Lite (LiteRT): .tflite files, run on the CPU by XNNPACK through ai-edge-litert's interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.runtimes.base import (
    Settings,
    Trace,
    Traced,
    as_float32,
    each_calibration,
    last_line,
    missing,
)
from efficientformer.runtimes.silence import quiet_native

_IDENTIFIER = slice(4, 8), b"TFL3"


class TfLite:
    """TensorFlow Lite files, converted by litert-torch, run by LiteRT's interpreter with XNNPACK.

    There is no fp16: XNNPACK, as the interpreter sets it up, turns 16-bit weights into 32-bit ones while it
    loads a file and computes in float32.
    """

    name = "tflite"
    packages = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer")
    extra = "tflite"
    suffix = ".tflite"
    devices = ("cpu",)
    precisions = ("fp32", "int8")

    def trouble(self, device: str = "cpu") -> str | None:
        """Only not being installed."""
        return missing(self)

    def files(self, path: Path) -> tuple[Path, ...]:
        """One file with the weights inside."""
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module as a .tflite file that takes and gives float32, NCHW as PyTorch does.

        int8 is static: weights per channel, activations by what they were on the calibration images.
        """
        from efficientformer.runtimes.tflite.files import convert

        (images,) = each_calibration([traced], precision, [] if calibration is None else [calibration])
        _save(convert(traced), path, images)

    def export_many(
        self,
        traced: Sequence[Traced],
        folder: Path,
        precision: str = "fp32",
        calibration: Sequence[np.ndarray] = (),
    ) -> list[Path]:
        """Several modules in one pass of the converter, a file each."""
        from efficientformer.runtimes.tflite.files import convert_each

        paths = [folder / f"{index}{self.suffix}" for index in range(len(traced))]
        images = each_calibration(traced, precision, calibration)
        for path, content, one in zip(paths, convert_each(traced), images, strict=True):
            _save(content, path, one)
        return paths

    def load(self, path: Path, settings: Settings) -> TfLiteSession:
        """A session on so many threads, which sleep while they wait.

        Raises:
            InputError: if it is no such file, or holds another precision than the settings say.
        """
        _check(path)
        with quiet_native():
            from ai_edge_litert.interpreter import Interpreter

            try:
                interpreter = Interpreter(str(path), num_threads=settings.threads)
                interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise InputError(f"{path}: TensorFlow Lite cannot load it: {last_line(error)}") from None
        types = {one["dtype"] for one in interpreter.get_tensor_details()}
        held = "int8" if np.int8 in types else "fp32"
        if held != settings.precision:
            raise InputError(
                f"{path}: holds {held}, the target says {settings.precision}; measure with :precision={held}"
            )
        return TfLiteSession(interpreter)

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """LiteRT's profiler, which knows XNNPACK's operators; whole microseconds, medians over the runs."""
        from efficientformer.runtimes.tflite.operators import trace

        session = self.load(path, settings)
        with quiet_native():
            return trace(path, settings.threads, session.encode(array), runs)


class TfLiteSession:
    """One loaded file with one input and one output."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._input = interpreter.get_input_details()[0]
        self._output = interpreter.get_output_details()[0]
        self._now = tuple(self._input["shape"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape as the file has it; a free batch counts as 1, any other free dimension as 0."""
        batch, *image = (int(side) for side in self._input["shape_signature"])
        return (1 if batch < 0 else batch, *(max(side, 0) for side in image))

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._input["dtype"] is np.float32

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output for one float32 input, which a file of integers is given in its own numbers."""
        if array.shape != self._now:
            self._resize(array.shape)
        self._interpreter.set_tensor(self._input["index"], self.encode(array))
        self._interpreter.invoke()
        return self._decode(self._interpreter.get_tensor(self._output["index"]))

    def encode(self, array: np.ndarray) -> np.ndarray:
        """An input in the file's numbers."""
        kind, (scale, zero) = self._input["dtype"], self._input["quantization"]
        if self.takes_float32 or not np.issubdtype(kind, np.integer):
            return np.ascontiguousarray(array, kind)
        limits = np.iinfo(kind)
        return np.clip(np.round(array / (scale or 1)) + zero, limits.min, limits.max).astype(kind)

    def _decode(self, output: np.ndarray) -> np.ndarray:
        scale, zero = self._output["quantization"]
        return as_float32((output.astype(np.float32) - zero) * scale if scale else output)

    def _resize(self, shape: tuple[int, ...]) -> None:
        try:
            self._interpreter.resize_tensor_input(self._input["index"], shape, strict=True)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError):
            raise InputError(f"the file takes {self.shape}, not {shape}") from None
        self._now = shape


def _save(content: bytes, path: Path, calibration: np.ndarray | None) -> None:
    """Write a float32 file, quantised if there is what to calibrate on."""
    from efficientformer.runtimes.tflite.files import quantise

    write_atomically(path, content if calibration is None else quantise(content, calibration))


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if head[_IDENTIFIER[0]] != _IDENTIFIER[1]:
        raise InputError(f"{path}: is not a TensorFlow Lite file")
