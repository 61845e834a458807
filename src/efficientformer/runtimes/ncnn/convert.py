"""From a module to ncnn's files, by way of a TorchScript trace and pnnx.

pnnx leaves some operators as it finds them, and ncnn then refuses the file or crashes. Those met in vision
networks are traced in other words, exactly equal for a batch of 1; any others are refused by name.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from efficientformer.runtimes.base import Traced, UnsupportedOperatorError
from efficientformer.runtimes.ncnn import files as ncnn_files
from efficientformer.runtimes.ncnn.files import Line
from efficientformer.runtimes.ncnn.library import imported

QKV = (2, 0, 3, 1, 4)  # timm's order of dimensions for queries, keys and values in one tensor
Origin = tuple[Tensor, tuple[int, ...]]  # a tensor, and the sizes that it was given another shape with
COMPLAINTS = ("not supported", "unsupported")  # in what pnnx prints of operators that it leaves alone
PROBE = "import sys; from efficientformer.runtimes.ncnn.runtime import probe; probe(*sys.argv[1:])"
PROBE_SECONDS = 600

TYPES = {
    "Convolution": "weighted",
    "ConvolutionDepthWise": "weighted",
    "InnerProduct": "weighted",
    "Gemm": "weighted",
    "Reduction": "mean",
    "GELU": "gelu",
    "ReLU": "relu",
    "Clip": "hardtanh",
    "HardSwish": "hardswish",
    "HardSigmoid": "hardsigmoid",
    "Swish": "silu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "LayerNorm": "layer_norm",
    "BatchNorm": "batch_norm",
    "MatMul": "matmul",
    "SDPA": "scaled_dot_product_attention",
    "Concat": "cat",
}
BINARY = {"0": "add", "1": "sub", "2": "mul", "3": "div"}
FUSED = {"1": "relu", "3": "hardtanh", "4": "sigmoid", "6": "hardswish"}  # activations by ncnn's number
SYNONYMS = {"relu6": "hardtanh", "_convolution": "weighted", "linear": "weighted"}  # pnnx swaps the last two


def convert(traced: Traced, folder: Path, precision: str) -> Path:
    """Write `net.param` and `net.bin` into a folder, among other files.

    Raises:
        UnsupportedOperatorError: naming the first operator that ncnn cannot run.
    """
    script = _trace(traced)
    script.save(str(folder / "net.pt"))
    printed = _pnnx(folder)
    made = folder / "net.ncnn.param"
    if not made.is_file():
        raise UnsupportedOperatorError(
            f"ncnn: pnnx cannot convert it: {printed[-1] if printed else 'it died'}"
        )
    graph = made.rename(folder / "net.param")
    made.with_suffix(".bin").rename(ncnn_files.weights(graph))
    layers = ncnn_files.read(graph)
    _refuse_unknown(layers, printed)
    ncnn_files.write(graph, _annotated(layers, traced.shape, _output_shape(script), _calls(script)))
    refuse_failing(graph, precision, printed)
    return graph


class Rewording(TorchFunctionMode):
    """Calls that pnnx has no ncnn form for, made in other words."""

    def __init__(self) -> None:
        super().__init__()
        self._heads: list[tuple[Tensor, Origin]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do the call, or its equal."""
        name = getattr(func, "__name__", "")
        if name == "addcmul" and not kwargs:
            return args[0] + args[1] * args[2]
        if name == "__getitem__" and _is_subsampling(*args):
            return _subsampled(*args)
        if name == "unbind" and (origin := self._find(args[0])):
            return _heads_apart(*origin)
        result = func(*args, **(kwargs or {}))
        if name in ("reshape", "view") and result.ndim == 5 and result.shape[2] == 3:
            self._heads.append((result, (args[0], tuple(result.shape))))
        elif name == "permute" and args[1:] in (QKV, (QKV,)) and (origin := self._find(args[0])):
            self._heads.append((result, origin))
        return result

    def _find(self, tensor: Tensor) -> Origin | None:
        return next((origin for result, origin in self._heads if result is tensor), None)


def _is_subsampling(x: Tensor, index: Any) -> bool:
    """Whether it is x[:, ::n, ::n] of a (B, H, W, C)."""
    if not (isinstance(index, tuple) and len(index) == 3 and x.ndim == 4):
        return False
    if not all(isinstance(one, slice) and one.start is None and one.stop is None for one in index):
        return False
    return index[0].step in (None, 1) and any((one.step or 1) > 1 for one in index)


def _subsampled(x: Tensor, index: tuple[slice, slice, slice]) -> Tensor:
    """Every n-th row and column: the largest of windows of one."""
    steps = [one.step or 1 for one in index[1:]]
    return F.max_pool2d(x.permute(0, 3, 1, 2), 1, steps).permute(0, 2, 3, 1)


def _heads_apart(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Queries, keys, values (B, heads, N, D) without a tensor of five dimensions; ncnn has four."""
    batch, count, _, heads, width = sizes
    parts = x.split(heads * width, -1)
    return tuple(part.reshape(batch, count, heads, width).transpose(1, 2) for part in parts)


def _trace(traced: Traced) -> Any:
    with warnings.catch_warnings(), torch.no_grad(), Rewording():
        warnings.simplefilter("ignore")  # of shapes taken as constants, and of TorchScript's age
        return torch.jit.trace(traced.module.eval(), torch.zeros(traced.shape), check_trace=False)


def _pnnx(folder: Path) -> list[str]:
    """Run pnnx in a folder, where it writes seven files; what it prints."""
    import pnnx

    command = (pnnx.EXEC_PATH, "net.pt", "fp16=0")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def _refuse_unknown(layers: list[Line], printed: list[str]) -> None:
    if not any("in0" in layer.tops for layer in layers) or not any("out0" in layer.tops for layer in layers):
        raise UnsupportedOperatorError(
            "ncnn: the graph that pnnx made does not lead from its input to its output"
        )
    found = ncnn_files.unknown(layers, imported())
    if found:
        raise UnsupportedOperatorError(f"ncnn has no counterpart for {', '.join(found)}{_complaint(printed)}")


def refuse_failing(graph: Path, precision: str, printed: list[str]) -> None:
    """Run the file in a process of its own: some graphs fail only when they run, and some crash Python.

    ncnn takes the sizes of a reshape on trust, and reads past the end of what it has if pnnx got them wrong.
    """
    command = (sys.executable, "-c", PROBE, str(graph), precision)
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    if done.returncode != 0:
        layer = (done.stdout.splitlines() or ["its file"])[-1]
        how = "crashes in" if done.returncode < 0 else "cannot run"
        raise UnsupportedOperatorError(f"ncnn {how} {layer}{_complaint(printed)}")


def _complaint(printed: list[str]) -> str:
    found = [line for line in printed if any(word in line for word in COMPLAINTS)]
    return f" (pnnx: {found[0]})" if found else ""


def _output_shape(script: Any) -> list[int]:
    sizes = next(script.inlined_graph.outputs()).type().sizes()
    if not sizes or sizes[0] != 1:
        raise UnsupportedOperatorError("ncnn: the network's output is not one tensor with a batch of 1 first")
    return sizes


def _calls(script: Any) -> list[tuple[str, str]]:
    """A traced graph's operators on tensors, each with the path of its module."""
    calls = []
    for node in script.inlined_graph.nodes():
        kind = node.kind().removeprefix("aten::").rstrip("_")
        outputs = list(node.outputs())
        if len(outputs) == 1 and outputs[0].type().kind() == "TensorType" and outputs[0].type().sizes():
            calls.append((SYNONYMS.get(kind, kind), node.scopeName().rpartition("__module.")[2]))
    return calls


def _annotated(
    layers: list[Line], shape: tuple[int, ...], output: list[int], calls: list[tuple[str, str]]
) -> list[Line]:
    """The layers with their modules' paths in their names, and both ends' shapes in the input.

    pnnx keeps the order, not the paths: the n-th convolution is the n-th, if there are as many.
    """
    wanted = Counter(kind for layer in layers for kind in _made_from(layer))
    there = Counter(kind for kind, _ in calls)
    paths = {kind: iter([path for one, path in calls if one == kind]) for kind in there}
    done = []
    for layer in layers:
        found = [next(paths[kind]) for kind in _made_from(layer) if wanted[kind] == there[kind]]
        if found and found[0]:
            layer = replace(layer, name=f"{found[0]}/{layer.name}")
        elif layer.kind == "Input":
            layer = replace(layer, parameters=ncnn_files.end_shapes(shape, output))
        done.append(layer)
    return done


def _made_from(layer: Line) -> tuple[str, ...]:
    """The operators of the traced graph that a layer stands for."""
    given = layer.parameters
    if layer.kind == "BinaryOp":
        return (BINARY[given["0"]],) if given.get("0", "0") in BINARY else ()
    if layer.kind == "Pooling":
        adaptive = given.get("4") == "1" or given.get("7") == "1"
        return (
            "adaptive_avg_pool2d" if adaptive else "avg_pool2d" if given.get("0") == "1" else "max_pool2d",
        )
    fused = FUSED.get(given.get("9", "0")) if layer.kind.startswith(("Conv", "Inner")) else None
    first = TYPES.get(layer.kind)
    return tuple(kind for kind in (first, fused) if kind)
