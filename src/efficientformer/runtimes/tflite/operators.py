"""A profile's events told apart: which operator of the file, and so which module, each of them is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes.base import Operator, Trace
from efficientformer.runtimes.tflite.profiler import Event, profile

_LAYOUT_CHANGES = ((0, 2, 3, 1), (0, 3, 1, 2))
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
_TO_THE_NEXT = ("PAD", "PADV2", "DEQUANTIZE")  # an operator that XNNPACK makes a part of the one after it

# What XNNPACK calls an operator, where it is not TensorFlow Lite's word.
_KERNELS = {
    "CONV_2D": ("convolution", "fully connected"),
    "DEPTHWISE_CONV_2D": ("convolution",),
    "TRANSPOSE_CONV": ("deconvolution",),
    "FULLY_CONNECTED": ("fully connected", "dynamic fully connected"),
    "BATCH_MATMUL": ("batch matrix multiply",),
    "AVERAGE_POOL_2D": ("average pooling", "global average pooling", "mean"),
    "MAX_POOL_2D": ("max pooling",),
    "SUB": ("subtract",),
    "MUL": ("multiply",),
    "RSQRT": ("reciprocal square root",),
    "SQRT": ("square root",),
    "RESHAPE": ("static reshape", "copy"),
    "EXPAND_DIMS": ("static reshape", "static expand", "copy"),
    "LOGISTIC": ("sigmoid", "invalid unary"),
    "TANH": ("tanh", "hyperbolic tangent", "invalid unary"),
    "GELU": ("gelu", "invalid unary"),
    "HARD_SWISH": ("hardswish", "invalid unary"),
    "RELU": ("clamp",),
    "RELU6": ("clamp",),
    "RELU_N1_TO_1": ("clamp",),
    "RELU_0_TO_1": ("clamp",),
    "PAD": ("constant pad", "static constant pad"),
    "PADV2": ("constant pad", "static constant pad"),
    "STRIDED_SLICE": ("slice", "strided slice", "static slice"),
    "SPLIT": ("split", "even split", "copy"),
    "CONCATENATION": ("concatenate", "copy"),
    "QUANTIZE": ("convert",),
    "DEQUANTIZE": ("convert",),
    "CAST": ("convert",),
}


@dataclass(frozen=True)
class Node:
    """An operator as the file has it.

    Attributes:
        kind: TensorFlow Lite's word for it.
        source: dotted path of the module it came from; empty if the file does not tell.
        merged: paths of modules that the converter made a part of it, such as an activation.
        shapes: of inputs that are not constants, and of outputs.
        relayout: whether it only changes between NCHW and NHWC.
    """

    kind: str
    source: str
    merged: tuple[str, ...]
    shapes: str
    relayout: bool


def trace(path: Path, threads: int, array: np.ndarray, runs: int) -> Trace:
    """Medians of the operators' times over so many runs."""
    events, whole = profile(path, threads, array, runs)
    if len({tuple((event.tag, event.index) for event in run) for run in events}) != 1:
        raise InputError(f"{path}: LiteRT's profiler lost operators; profile a smaller network")
    nodes = read_nodes(path)
    fate = place(events[0], nodes)
    fallen = any(event.delegated for event in events[0])
    times = [statistics.median(run[at].us for run in events) / 1e3 for at in range(len(events[0]))]
    operators = [
        _operator(event, ms, at, nodes, fate, fallen)
        for at, (event, ms) in enumerate(zip(events[0], times, strict=True))
    ]
    return Trace(tuple(operators), tuple(whole), "LiteRT's profiler")


def place(events: Sequence[Event], nodes: Sequence[Node]) -> list[int | None]:
    """For each event the node it is, where that is clear.

    What TensorFlow Lite runs itself is known by its number. XNNPACK keeps the order, drops what it makes a
    part of a neighbour, and adds copies; so its events are the longest common sequence with the other nodes.
    """
    own = {event.index for event in events if not event.delegated}
    left = [at for at in range(len(nodes)) if at not in own]
    inside = [at for at, event in enumerate(events) if event.delegated]
    best = np.zeros((len(inside) + 1, len(left) + 1), np.int32)
    same = [[_is(events[at].tag, nodes[node].kind) for node in left] for at in inside]
    for i in reversed(range(len(inside))):
        for j in reversed(range(len(left))):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], best[i + 1, j + 1] + 1 if same[i][j] else 0)
    fate: list[int | None] = [None if event.delegated else event.index for event in events]
    i = j = 0
    while i < len(inside) and j < len(left):
        if same[i][j] and best[i, j] == best[i + 1, j + 1] + 1:
            fate[inside[i]] = left[j]
            i, j = i + 1, j + 1
        elif best[i, j] == best[i, j + 1]:
            j += 1
        else:
            i += 1
    return fate


def module_paths(name: str) -> tuple[str, ...]:
    """The modules in a tensor's name as litert-torch writes it, the first to run first.

    `pkg.Outer/pkg.Inner_path/pkg.Conv2d_0;2` is `path.0`. A list of modules has no call, so its name is not
    in there. Names that others wrote give nothing.
    """
    paths = []
    for piece in reversed(name.split(";")):
        parts = piece.split("/")
        if all("." in part for part in parts):
            steps = (part.rpartition(".")[2].lstrip("_").partition("_")[2] for part in parts)
            paths.append(".".join(filter(None, steps)))
    return tuple(dict.fromkeys(filter(None, paths)))


def read_nodes(path: Path) -> list[Node]:
    """The operators of a file's main graph."""
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    nodes = []
    for at in range(graph.OperatorsLength()):
        operator = graph.Operators(at)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        nodes.append(_node(content, model, graph, operator, kind))
    return nodes


def _node(content: bytes, model: Any, graph: Any, operator: Any, kind: str) -> Node:
    inputs = [graph.Tensors(int(at)) for at in operator.InputsAsNumpy() if at >= 0]
    outputs = [graph.Tensors(int(at)) for at in operator.OutputsAsNumpy()]
    constants = {tensor: data for tensor in inputs if (data := _data(content, model, tensor))}
    names = [tensor.Name() or b"" for tensor in (*outputs, *constants)]  # a network's output has another name
    source, *merged = next(filter(None, (module_paths(name.decode()) for name in names)), ("",))
    given = ", ".join(_shape(tensor) for tensor in inputs if tensor not in constants)
    shapes = f"{given} → {', '.join(map(_shape, outputs))}"
    orders = [tuple(np.frombuffer(data, np.int32)) for data in constants.values() if kind == "TRANSPOSE"]
    relayout = any(order in _LAYOUT_CHANGES for order in orders)
    return Node(kind, source, tuple(merged), shapes, relayout)


def _operator(
    event: Event, ms: float, at: int, nodes: Sequence[Node], fate: Sequence[int | None], fallen: bool
) -> Operator:
    index = fate[at]
    if index is None:
        return _added(event, ms, next((nodes[own] for own in fate[at::-1] if own is not None), None))
    node = nodes[index]
    with_it = [*node.merged, *(nodes[other].kind for other in _absorbed(at, fate, nodes))]
    kernel = event.tag if event.delegated else "TensorFlow Lite's own kernel"
    detail = f"{kernel}; {node.shapes}" + (f"; fused: {', '.join(with_it)}" if with_it else "")
    role = "convert" if node.relayout or node.kind in _CONVERSIONS else "compute"
    if fallen and not event.delegated:
        role = "fallback"
    return Operator(f"{index} {node.kind}", node.kind, ms, node.source, detail, role)


def _added(event: Event, ms: float, last: Node | None) -> Operator:
    """What XNNPACK put in after an operator: the activation that the file has within it, or a conversion."""
    if last is None or not event.tag.startswith("Clamp"):
        return Operator(event.tag, event.tag, ms, role="convert")
    return Operator(event.tag, event.tag, ms, last.merged[-1] if last.merged else last.source)


def _absorbed(at: int, fate: Sequence[int | None], nodes: Sequence[Node]) -> list[int]:
    """The nodes that have no event and are a part of this one: paddings before it, others after it."""
    own, known = fate[at], {index for index in fate if index is not None}
    if own is None:
        return []
    before, after = [], []
    while own - len(before) - 1 >= 0 and (other := own - len(before) - 1) not in known:
        if nodes[other].kind not in _TO_THE_NEXT:
            break
        before.append(other)
    while (other := own + len(after) + 1) < len(nodes) and other not in known:
        if nodes[other].kind in _TO_THE_NEXT:
            break
        after.append(other)
    return [*reversed(before), *after]


def _is(tag: str, kind: str) -> bool:
    words = _KERNELS.get(kind, (kind.lower().replace("_", " "),))
    return tag.lower().startswith(words)


def _shape(tensor: Any) -> str:
    return "×".join(map(str, tensor.ShapeAsNumpy())) if tensor.ShapeLength() else "1"


def _data(content: bytes, model: Any, tensor: Any) -> bytes:
    """A constant's bytes, which stand inside the file's structure or after it; none if it is computed."""
    buffer = model.Buffers(tensor.Buffer())
    if buffer.Offset() > 1:
        return content[buffer.Offset() : buffer.Offset() + buffer.Size()]
    return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
