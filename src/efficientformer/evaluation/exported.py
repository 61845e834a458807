"""Exported files as classifiers: any runtime's, ours or others', each in a process of its own."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.latency.process import Process
from efficientformer.latency.subjects import runtime_of
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES, usable
from efficientformer.runtimes.base import random_image

_PROBES = 4  # images that show what a file gives
_CLOSE = 1e-3  # how far probabilities may be from a sum of 1


@dataclass(frozen=True)
class Pixels:
    """How a file's bytes stand for normalised pixels: byte / 255 less mean, over std, in each channel.

    Attributes:
        mean: see above.
        std: see above.
    """

    mean: float
    std: float


class ExportedFile:
    """An exported file that is called with images and gives logits.

    Images run one at a time: few files take more. A softmax at the end is undone. A TensorFlow Lite file is
    run without it: in its 8 bits nothing is left of classes below 1/512, which matters where only some of its
    classes are wanted (of Imagenette's 3,925 validation images, 97.2 % are right among ten of 1001 outputs
    without it, 96.3 % with it).

    Args:
        path: the file.
        target: where it runs; by default its own runtime and precision, on all processors.

    Attributes:
        side: pixels of a side of its images.
        outputs: how many logits it gives.
        pixels: how its integers stand for pixels; None for a file that takes floats.

    Raises:
        MissingRuntimeError: if its runtime is not installed.
        InputError: if it is damaged, or does not take one square RGB image.
    """

    def __init__(self, path: Path, target: Target | None = None) -> None:
        runtime = runtime_of(path)
        if runtime is None:
            raise InputError(f"{path}: is of no runtime that is known by its ending")
        usable(runtime, target.device if target else "cpu")
        self.path, self.pixels = path, None
        self._folder = tempfile.TemporaryDirectory(prefix="efficientformer-")
        try:
            if runtime == "tflite":
                path, self.pixels = self._as_tflite(path)
            self._process = _process(path, target, runtime)
            self._probe()
        except BaseException:
            self.close()
            raise

    def __call__(self, x: Tensor) -> Tensor:
        """(b, 3, side, side), normalised, on any device → logits (b, outputs), float32, on the same."""
        images = x.detach().permute(0, 2, 3, 1) if self._channels_last else x.detach()
        given = self._process.run(np.ascontiguousarray(images.to("cpu", torch.float32).numpy()))
        logits = torch.from_numpy(given).to(x.device)
        return logits.clamp(min=torch.finfo(torch.float32).tiny).log() if self._probabilities else logits

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        if process := getattr(self, "_process", None):
            process.close()
        self._folder.cleanup()

    def _as_tflite(self, path: Path) -> tuple[Path, Pixels | None]:
        """The file without its softmax, and how it takes pixels."""
        from efficientformer.runtimes.tflite.foreign import input_quantisation, without_softmax

        try:
            content = path.read_bytes()
            quantised, shorter = input_quantisation(content), without_softmax(content)
        except Exception:  # a damaged file, of which its runtime will say so
            return path, None
        pixels = Pixels(quantised.zero / 255, 1 / (255 * quantised.scale)) if quantised else None
        if shorter is None:
            return path, pixels
        cut = Path(self._folder.name) / path.name
        write_atomically(cut, shorter)
        return cut, pixels

    def _probe(self) -> None:
        """Find out what it takes and gives."""
        shape = self._process.shape
        self._channels_last = len(shape) == 4 and shape[3] == 3 != shape[1]
        channels, *sides = (shape[3], *shape[1:3]) if self._channels_last else shape[1:]
        if len(shape) != 4 or shape[0] != 1 or channels != 3 or sides[0] != sides[1] or not sides[0]:
            raise InputError(f"{self.path}: takes {shape}, not one square RGB image")
        if not self._process.takes_float32 and self.pixels is None:
            raise InputError(
                f"{self.path}: takes other numbers than 32-bit floats; export it with a float32 input"
            )
        self.side = sides[0]
        given = self._process.run(random_image((_PROBES, *shape[1:])))
        if given.ndim != 2 or len(given) != _PROBES:
            raise InputError(f"{self.path}: gives {given.shape[1:]} for an image, not one row of classes")
        self.outputs = given.shape[1]
        self._probabilities = bool((given >= 0).all() and (np.abs(given.sum(1) - 1) < _CLOSE).all())


def _process(path: Path, target: Target | None, runtime: str) -> Process:
    """The file, running; without a target, in the first of its runtime's precisions that fits."""
    if target is not None:
        return Process(path, target)
    hinted = [one for one in RUNTIMES[runtime].precisions if f".{one}." in path.name]
    refusals = []
    for precision in dict.fromkeys((*hinted, *RUNTIMES[runtime].precisions)):
        try:
            return Process(path, Target(runtime, "cpu", _processors(), precision))
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
