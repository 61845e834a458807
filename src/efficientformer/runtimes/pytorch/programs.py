"""What both of PyTorch's runtimes stand on: exported programs, and torch told how to compute.

This file imports torch, so the runtimes import it where they use it.
"""

from __future__ import annotations

import copy
import os
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from efficientformer.errors import InputError
from efficientformer.runtimes.base import Operator, Settings, Traced, UnsupportedOperatorError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RUN, RANGE = "efficientformer::run", "efficientformer::node::"
CONVOLUTIONS = tuple(getattr(torch.ops.aten.conv2d, name) for name in torch.ops.aten.conv2d.overloads())


class Deployed(nn.Module):
    """A network in one number type and layout inside, with float32 images in and one float32 tensor out."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.memory_format = memory_format

    def forward(self, images: Tensor) -> Tensor:
        """The network's first output."""
        if images.ndim == 4:
            images = images.contiguous(memory_format=self.memory_format)
        output = self.network(images if self.dtype == torch.float32 else images.to(self.dtype))
        first = output[0] if isinstance(output, (tuple, list)) else output
        return first if first.dtype == torch.float32 else first.float()


def program(
    traced: Traced, precision: str, memory_format: torch.memory_format, device: torch.device | str
) -> torch.export.ExportedProgram:
    """A copy of a module as an exported program, without traces of where it was made.

    Raises:
        UnsupportedOperatorError: if torch.export cannot follow it.
    """
    dtype = DTYPES[precision]
    network = (
        copy.deepcopy(traced.module).train().eval()
    )  # `train` empties the caches that some keep for `eval`
    network.requires_grad_(False).to(device, dtype)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.contiguous()  # torch.export.save wants them so
    deployed = Deployed(network, dtype, memory_format).eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # of those caches, filled while it is traced
            warnings.filterwarnings("ignore", ".*were assigned during export", UserWarning)
            exported = torch.export.export(deployed, (torch.zeros(traced.shape, device=device),))
    except Exception as error:  # whatever the module's own code or torch's tracing raises
        why = next((line for line in str(error).splitlines() if line.strip()), "")
        what = f"{type(error).__name__}: {why}"
        raise UnsupportedOperatorError(f"torch: torch.export cannot follow the network: {what}") from None
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    return exported


def source(node: fx.Node) -> str:
    """The path of the module that a node of a program came from, as it was before `Deployed` wrapped it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = re.sub(r"@\d+", "", list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix("network").removeprefix(".")


def kind(node: fx.Node) -> str:
    """The operator that a node calls, without its namespace and overload."""
    return str(node.target).split(".")[-2]


def prepare(settings: Settings) -> None:
    """Tell torch, for this process: so many threads, and float32 that is float32 (no TF32, no bfloat16)."""
    torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def check_precision(path: Path, module: nn.Module, precision: str) -> None:
    """Refuse a file whose weights are of another precision than is asked for.

    Raises:
        InputError: if they are.
    """
    tensors = (*module.parameters(), *module.buffers())
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if found and DTYPES[precision] not in found:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise InputError(f"{path}: its weights are {names}, not {precision}")


def laid_out(module: fx.GraphModule) -> fx.GraphModule:
    """A program with its convolutions' weights channels-last, if its maps are."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    if any(node.kwargs.get("memory_format") is torch.channels_last for node in nodes):
        for node in nodes:
            weight = node.args[1] if node.target in CONVOLUTIONS else None
            if isinstance(weight, fx.Node) and weight.op == "get_attr":
                tensor = attrgetter(str(weight.target))(module)
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def to_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the same memory, or a copy if that may not be written to: torch would warn."""
    return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


class Clocked(fx.Interpreter):
    """A program run node by node, each call of an operator timed: the least that watching can cost.

    Attributes:
        times: milliseconds of each run, by the node's name.
    """

    def __init__(self, module: fx.GraphModule, wait: Callable[[], object]) -> None:
        super().__init__(module)
        self.times: dict[str, list[float]] = defaultdict(list)
        self._wait = wait
        self._name = ""

    def run_node(self, n: fx.Node) -> Any:
        """One node; its name is kept for the clock."""
        self._name = n.name
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, until the device is done with it."""
        start = time.perf_counter()
        result = target(*args, **kwargs)
        if target is getitem:  # takes a result apart; no operator
            return result
        self._wait()
        self.times[self._name].append((time.perf_counter() - start) * 1e3)
        return result


class Ranged(fx.Interpreter):
    """A program run node by node, each call of an operator a range of torch.profiler's."""

    def run_node(self, n: fx.Node) -> Any:
        """One node within a range of its name."""
        with torch.profiler.record_function(RANGE + n.name):
            return super().run_node(n)


def by_clock(module: fx.GraphModule, images: Tensor, runs: int) -> tuple[dict[str, list[float]], list[float]]:
    """Milliseconds of each operator by node, and of each whole run, by the clock."""
    wait = torch.mps.synchronize if images.device.type == "mps" else lambda: None
    interpreter = Clocked(module, wait)
    whole = []
    with torch.inference_mode():
        for _ in range(runs):
            start = time.perf_counter()
            interpreter.run(images)
            whole.append((time.perf_counter() - start) * 1e3)
    return interpreter.times, whole


def by_profiler(
    module: fx.GraphModule, images: Tensor, runs: int
) -> tuple[dict[str, list[float]], list[float]]:
    """The same by torch.profiler: on CUDA, the time of the kernels that an operator started."""
    interpreter = Ranged(module)
    names = {RANGE + node.name: node.name for node in module.graph.nodes if _is_operator(node)}
    times: dict[str, list[float]] = defaultdict(list)
    whole = []
    for event in watched(lambda: interpreter.run(images), runs, images.device):
        if event.name == RUN:
            whole.append(event.cpu_time_total / 1e3)
        elif event.name in names:
            times[names[event.name]].append(spent(event, images.device))
    return times, whole


def watched(call: Callable[[], object], runs: int, device: torch.device) -> list[Any]:
    """What torch.profiler saw of so many calls on the host, in order; each call lies in a range `RUN`."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler tells stderr that it starts and stops
    with torch.inference_mode(), torch.profiler.profile(activities=activities) as profiler:
        for _ in range(runs):
            with torch.profiler.record_function(RUN):
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize()
    events = [event for event in profiler.events() or () if event.device_type.name == "CPU"]
    return sorted(events, key=lambda event: event.time_range.start)


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is not getitem


def spent(event: Any, device: torch.device) -> float:
    """Milliseconds of an event: of its kernels on a GPU, of itself on the CPU."""
    return (event.device_time_total if device.type == "cuda" else event.cpu_time_total) / 1e3


def by_run(events: list[Any], device: torch.device) -> tuple[list[float], list[list[tuple[str, float]]]]:
    """Milliseconds of each run, and the outermost events in it: name and milliseconds."""
    runs = [event for event in events if event.name == RUN]
    rows = [
        [(event.name, spent(event, device)) for event in events if event.cpu_parent is run] for run in runs
    ]
    return [run.cpu_time_total / 1e3 for run in runs], rows


def operator(node: fx.Node, ms: float) -> Operator:
    """A node of a program with its time."""
    path = source(node)
    layout = not path and kind(node) in {"contiguous", "to", "_to_copy", "float"}  # put in by `Deployed`
    value = node.meta.get("val")
    detail = (
        f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else ""
    )
    return Operator(node.name, kind(node), ms, path, detail, "convert" if layout else "compute")
