"""PyTorch itself, eager: every operator is called from Python, as `model(images)` does it."""

from __future__ import annotations

import io
import logging
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.runtimes.base import (
    OneByOne,
    Runtime,
    Settings,
    Trace,
    Traced,
    UnsupportedOperatorError,
    last_line,
    missing,
)
from efficientformer.runtimes.pytorch import archive

if TYPE_CHECKING:
    from torch import Tensor, fx

WARM_UP = 2
"""Runs under a profiler that are not counted."""


class PyTorch(OneByOne):
    """Programs of `torch.export`, run operator by operator.

    Images are made channels-last inside, which suits convolutions on CPUs and GPUs. The file holds no pickle,
    and none is read: see `archive.py`. CUDA and Metal have not been tried by us.
    """

    name = "torch"
    packages = ("torch",)
    extra = ""
    suffix = ".pt2"
    devices = ("cpu", "cuda", "mps")
    precisions = ("fp32", "fp16", "bf16")

    def trouble(self, device: str = "cpu") -> str | None:
        """None if files can be run here on a device; otherwise why not."""
        return device_trouble(self, device)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The one file."""
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write a module as a program for any device: fp16 for `cuda` and `mps`, bf16 for `cpu` and `cuda`.

        Raises:
            UnsupportedOperatorError: if torch.export cannot follow it, or if operators are not aten's.
        """
        import torch

        from efficientformer.runtimes.pytorch import programs

        program = programs.program(traced, precision, torch.channels_last, "cpu")
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        try:
            content = archive.plain(buffer.getvalue())
        except archive.ArchiveError as error:
            raise UnsupportedOperatorError(f"torch: the exported network {error}") from None
        write_atomically(path, content)

    def load(self, path: Path, settings: Settings) -> EagerSession:
        """A program on a device; the number of threads is this whole process's.

        Raises:
            InputError: if it is no such file, of another precision, or not for this device.
        """
        from efficientformer.runtimes.pytorch import programs

        check_device(self, path, settings)
        programs.prepare(settings)
        return EagerSession(_module(path, settings), settings.device)

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """The time of each operator: by the clock on the CPU and Metal, by torch.profiler on CUDA."""
        from efficientformer.runtimes.pytorch import programs

        session = self.load(path, settings)
        cuda = settings.device == "cuda"
        measure = programs.by_profiler if cuda else programs.by_clock
        times, whole = measure(session.module, session.images(array), runs + WARM_UP)
        operators = tuple(
            programs.operator(node, statistics.median(times[node.name][WARM_UP:]))
            for node in session.module.graph.nodes
            if node.name in times
        )
        name = (
            "torch.profiler, kernels by operator" if cuda else "the clock around each operator of the program"
        )
        return Trace(operators, tuple(whole[WARM_UP:]), name)


class EagerSession:
    """A program on a device.

    Attributes:
        module: the program, to be called with a tensor on that device.
    """

    def __init__(self, module: fx.GraphModule, device: str) -> None:
        self.module = module
        self._device = device
        image = next(node for node in module.graph.nodes if node.op == "placeholder").meta["val"]
        self._shape = tuple(int(side) for side in image.shape)
        self._dtype = str(image.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, batch first."""
        return self._shape

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._dtype == "torch.float32"

    def images(self, array: np.ndarray) -> Tensor:
        """A tensor on the device."""
        from efficientformer.runtimes.pytorch import programs

        return programs.to_tensor(array).to(self._device)

    def run(self, array: np.ndarray) -> np.ndarray:
        """The output for one input; copying it to the host waits for the device."""
        import torch

        with torch.inference_mode():
            return self.module(self.images(array)).float().cpu().numpy()


def check_device(runtime: Runtime, path: Path, settings: Settings) -> None:
    """Refuse what cannot be run here, or what torch would compute in another way than it says.

    Raises:
        InputError: for a missing file or device, for fp16 on the CPU, for bf16 on Metal.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if trouble := runtime.trouble(settings.device):
        raise InputError(f"{path}: {trouble}")
    if settings.precision not in runtime.precisions:
        raise InputError(f"{path}: {runtime.name} has no {settings.precision}")
    if (settings.device, settings.precision) in {("cpu", "fp16"), ("mps", "bf16")}:
        other = "bf16" if settings.device == "cpu" else "fp16"
        raise InputError(
            f"{path}: {runtime.name} takes no {settings.precision} on {settings.device}, but {other}"
        )


def device_trouble(runtime: Runtime, device: str) -> str | None:
    """None if torch can use a device of this machine; otherwise why not."""
    if device not in runtime.devices:
        return f"{runtime.name} runs on {', '.join(runtime.devices)}, not on {device}"
    if device == "cpu" or missing(runtime):
        return missing(runtime)
    import torch

    if device == "cuda":
        return None if torch.cuda.is_available() else "no CUDA device is visible to torch"
    return (
        None
        if torch.backends.mps.is_available()
        else "torch sees no Metal device; it takes macOS on Apple silicon"
    )


def _module(path: Path, settings: Settings) -> fx.GraphModule:
    """The program in a file, its weights on the device and laid out as its convolutions want them."""
    import torch
    from torch.export.passes import move_to_device_pass

    from efficientformer.runtimes.pytorch import programs

    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True  # it would print the traceback of what is raised here
    try:
        program = torch.export.load(io.BytesIO(archive.plain(path)))
        if settings.device != "cpu":
            program = move_to_device_pass(program, settings.device)
        module = program.module(check_guards=False)  # the shape is checked all the same
    except archive.ArchiveError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # torch raises many kinds for one that does not fit together
        raise InputError(f"{path}: torch cannot load it: {last_line(error)}") from None
    finally:
        logger.disabled = before
    programs.check_precision(path, module, settings.precision)
    return programs.laid_out(module)
