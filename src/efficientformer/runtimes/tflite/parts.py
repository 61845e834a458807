"""Part a .tflite file of several modules side by side into a file for each: one conversion, many files."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

_ALIGNED = 16  # as the schema demands of buffers; Python's builder does not heed it by itself


def part(content: bytes, count: int) -> list[bytes]:
    """The contents of one file for each input `args_i` and its output `output_i`."""
    from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

    model: Any = read_model_from_bytearray(content)
    signature = model.signatureDefs[0]
    inputs = {one.name.decode(): one.tensorIndex for one in signature.inputs}
    outputs = {one.name.decode(): one.tensorIndex for one in signature.outputs}
    return [
        packed(_only(model, inputs[f"args_{index}"], outputs[f"output_{index}"])) for index in range(count)
    ]


def _only(model: Any, given: int, result: int) -> Any:
    """What of a model leads from one tensor to another, as a model of its own."""
    graph = model.subgraphs[0]
    operators = leading_to(graph.operators, result)
    used = [given, *dict.fromkeys(at for one in operators for at in (*one.inputs, *one.outputs) if at >= 0)]
    number = {at: new for new, at in enumerate(dict.fromkeys([*used, result]))}
    small = copy.copy(model)
    small.buffers, small.metadata, small.metadataBuffer = [copy.copy(model.buffers[0])], [], []
    part_graph = copy.copy(graph)
    part_graph.tensors = [_tensor(graph.tensors[at], model.buffers, small.buffers) for at in number]
    part_graph.operators = [_renumbered(one, number) for one in operators]
    part_graph.inputs, part_graph.outputs = [number[given]], [number[result]]
    small.subgraphs = [part_graph]
    small.signatureDefs = [_signature(model.signatureDefs[0], number[given], number[result])]
    return small


def leading_to(operators: list[Any], result: int) -> list[Any]:
    """The operators that a tensor depends on, in their order."""
    wanted, chosen = {result}, []
    for operator in reversed(operators):
        if wanted.intersection(operator.outputs):
            wanted.update(operator.inputs)
            chosen.append(operator)
    return chosen[::-1]


def _renumbered(operator: Any, number: dict[int, int]) -> Any:
    moved = copy.copy(operator)
    moved.inputs = [number[at] if at >= 0 else at for at in operator.inputs]
    moved.outputs = [number[at] for at in operator.outputs]
    return moved


def _tensor(tensor: Any, old: list[Any], new: list[Any]) -> Any:
    moved = copy.copy(tensor)
    moved.name = ";".join(_without_bundle(tensor.name.decode())).encode()
    moved.buffer = 0
    if old[tensor.buffer].data is not None:
        moved.buffer = len(new)
        new.append(copy.copy(old[tensor.buffer]))
        new[-1].data = np.frombuffer(bytes(new[-1].data), np.uint8)
    return moved


def _without_bundle(name: str) -> Iterator[str]:
    """A name as it were had the module been converted alone: not as a numbered part of a bundle."""
    for piece in name.split(";"):
        outer, slash, rest = piece.partition("/")
        inner, more, last = rest.partition("/")
        yield re.sub(r"_\d+$", "", inner) + more + last if slash and "." in outer else piece


def _signature(signature: Any, given: int, result: int) -> Any:
    moved = copy.copy(signature)
    moved.inputs, moved.outputs = [copy.copy(signature.inputs[0])], [copy.copy(signature.outputs[0])]
    moved.inputs[0].name, moved.inputs[0].tensorIndex = b"args_0", given
    moved.outputs[0].name, moved.outputs[0].tensorIndex = b"output_0", result
    return moved


def packed(model: Any) -> bytes:
    """A model as the content of a file."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """Aligns bytes, which are what the buffers hold."""

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
            return super().StartVector(elemSize, numElems, _ALIGNED if elemSize == 1 else alignment)

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
