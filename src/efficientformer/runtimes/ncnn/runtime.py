"""ncnn on the CPU. Files are a `.param` (the graph, as text) and a `.bin` (its weights) beside it.

ncnn has no batch: its files take and give one image. The weights are always float32; in the precision bf16
ncnn keeps weights and activations as bfloat16 while it runs. Its float16 does nothing on x86 but for a few
layers, and its tool for int8 is not in the wheel.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes.base import (
    OneByOne,
    Operator,
    Settings,
    Trace,
    Traced,
    as_float32,
    missing,
    random_image,
)
from efficientformer.runtimes.ncnn import files as ncnn_files
from efficientformer.runtimes.ncnn.files import Line
from efficientformer.runtimes.ncnn.library import imported
from efficientformer.runtimes.silence import quiet_native

REDUCED = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage")  # all on or off
KEPT = {"fp32": (), "bf16": ("bf16_packed", "bf16_storage")}
WARM_UPS = 2


class Ncnn(OneByOne):
    """ncnn's files, run by its Python wheel."""

    name = "ncnn"
    packages = ("ncnn", "pnnx")
    extra = "ncnn"
    suffix = ".param"
    devices = ("cpu",)
    precisions = ("fp32", "bf16")

    def trouble(self, device: str = "cpu") -> str | None:
        """None if files can be run here; otherwise why not."""
        if device not in self.devices:
            return f"ncnn is used on {', '.join(self.devices)} here, not on {device}"
        return missing(self)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The graph and its weights."""
        return path, ncnn_files.weights(path)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module; the file is the same for every precision."""
        from efficientformer.runtimes.ncnn.convert import convert

        _check(precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ncnn-") as folder:
            graph = convert(traced, Path(folder), precision)
            ncnn_files.weights(graph).replace(ncnn_files.weights(path))
            graph.replace(path)

    def load(self, path: Path, settings: Settings) -> NcnnSession:
        """A network on so many threads, none of which spins while it waits."""
        return NcnnSession(path, settings)

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """Times of the layers, extracted one after the other.

        The wheel is built without ncnn's own timing. But ncnn computes only what the blob asked for still
        lacks, so asking for each layer's in turn gives each layer's time.
        """
        session = NcnnSession(path, settings)
        samples = [session.step(array) for _ in range(WARM_UPS + runs)][WARM_UPS:]
        columns = zip(*(times for times, _ in samples), strict=True)
        pairs = zip(session.computing, map(statistics.median, columns), strict=True)
        whole = tuple(whole for _, whole in samples)
        return Trace(
            tuple(_operator(line, ms) for line, ms in pairs), whole, "ncnn, by successive extraction"
        )


class NcnnSession:
    """One loaded network with one input and one output.

    Raises:
        InputError: if the files are not ncnn's, are damaged, or do not run.
    """

    takes_float32 = True

    def __init__(self, path: Path, settings: Settings) -> None:
        _check(settings.precision)
        self._path = path
        self._lines = ncnn_files.read(path)
        self._ncnn = imported()
        unknown = ncnn_files.unknown(self._lines, self._ncnn)
        if unknown:
            raise InputError(f"{path}: this ncnn does not know layers of type {', '.join(unknown)}")
        self._net = self._ncnn.Net()
        _configure(self._net.opt, settings)
        with quiet_native():
            failed = self._net.load_param(str(path)) or self._net.load_model(str(ncnn_files.weights(path)))
        if failed or len(self._net.input_names()) != 1 or not self._net.output_names():
            raise InputError(f"{path}: ncnn cannot load it; it or the .bin beside it is damaged")
        self._input, self._output = self._net.input_names()[0], self._net.output_names()[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape with a batch of 1; zeros if the file does not tell."""
        return ncnn_files.input_shape(self._lines)

    @property
    def computing(self) -> list[Line]:
        """The layers that compute, in the order of execution."""
        return [line for line in self._lines if line.computes]

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output for one float32 input."""
        with self._fed(array) as extractor:
            output = as_float32(self._extract(extractor, self._output))
        return output.reshape(ncnn_files.output_shape(self._lines) or (1, *output.shape))

    def step(self, array: np.ndarray, announce: bool = False) -> tuple[list[float], float]:
        """One inference layer by layer: milliseconds of each layer that computes, and of them all."""
        times = []
        with self._fed(array) as extractor:
            started = time.perf_counter()
            for line in self.computing:
                if announce:
                    print(f"{line.kind} ({line.name})", flush=True)
                before = time.perf_counter()
                self._extract(extractor, line.tops[0], raw=True)
                times.append(1e3 * (time.perf_counter() - before))
            return times, 1e3 * (time.perf_counter() - started)

    def _fed(self, array: np.ndarray) -> Any:
        if 0 not in self.shape and array.shape != self.shape:  # ncnn would compute something, or crash
            raise InputError(f"{self._path}: it takes {self.shape}, not {array.shape}")
        extractor = self._net.create_extractor()
        image = np.ascontiguousarray(array[0], dtype=np.float32)
        extractor.input(self._input, self._ncnn.Mat(image).clone())  # the clone is laid out as ncnn likes it
        return extractor

    def _extract(self, extractor: Any, blob: str, raw: bool = False) -> Any:
        """A blob; raw, it stays in the layout and number type that ncnn computes in."""
        status, output = extractor.extract(blob, int(raw))
        if status != 0:
            raise InputError(f"{self._path}: ncnn cannot compute {blob} from such an input")
        return output


def probe(path: str, precision: str) -> None:
    """Run a file layer by layer, printing each before: done in a process of its own, as it may crash."""
    session = NcnnSession(Path(path), Settings(precision=precision))
    image = random_image(session.shape)
    session.step(image, announce=True)
    if not np.isfinite(session.run(image)).all():
        print(f"it in {precision}: its outputs are not numbers", flush=True)
        raise SystemExit(1)


def _check(precision: str) -> None:
    if precision not in KEPT:
        raise InputError(f"ncnn has no precision {precision!r} here; known: {', '.join(KEPT)}")


def _configure(options: Any, settings: Settings) -> None:
    options.num_threads = settings.threads
    options.openmp_blocktime = 0
    for name in REDUCED:  # fp16 is on by default, and would be used wherever the CPU can
        setattr(options, f"use_{name}", name in KEPT[settings.precision])


def _operator(line: Line, ms: float) -> Operator:
    detail = " ".join(f"{key}={value}" for key, value in line.parameters.items())
    role = "convert" if "ncnnreshape" in line.name else "compute"  # pnnx puts these in
    return Operator(line.name, line.kind, ms, line.name.rpartition("/")[0], detail, role)
