"""Other people's .tflite files: what their bytes stand for, and the logits before their softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientformer.runtimes.tflite.parts import leading_to, packed


@dataclass(frozen=True)
class Quantisation:
    """What the bytes of a tensor stand for: (byte − zero) · scale, bytes counted from 0 whatever their sign.

    Attributes:
        scale: see above.
        zero: see above.
    """

    scale: float
    zero: int


def input_quantisation(content: bytes) -> Quantisation | None:
    """How an image is given to a file that takes bytes; None for one that takes something else.

    Args:
        content: of a whole file, which is not checked; a damaged one gives errors of any kind.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = _model(content).subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    lowest = {schema.TensorType.UINT8: 0, schema.TensorType.INT8: -128}.get(tensor.type)
    if lowest is None or tensor.quantization is None or tensor.quantization.scale is None:
        return None
    scale, zero = tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]
    return Quantisation(float(scale), int(zero) - lowest) if scale > 0 else None


def without_softmax(content: bytes) -> bytes | None:
    """The content of a file that gives what the last softmax was given; None if it does not end in one.

    Args:
        content: of a whole file, which is not checked; a damaged one gives errors of any kind.
    """
    model = _model(content)
    graph = model.subgraphs[0]
    logits = _before_softmax(model, graph)
    if logits is None:
        return None
    graph.operators, graph.outputs = leading_to(graph.operators, logits), [logits]
    model.signatureDefs = []  # they would name the output that is gone
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
    return packed(model)


def _before_softmax(model: Any, graph: Any) -> int | None:
    """The tensor that the softmax at the end takes; changes of number type may follow it."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator as Kinds

    made_by = {at: operator for operator in graph.operators for at in operator.outputs}
    operator = made_by.get(graph.outputs[0])
    while operator is not None:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind == Kinds.SOFTMAX:
            return int(operator.inputs[0]) if operator.builtinOptions.beta == 1 else None
        if kind not in (Kinds.QUANTIZE, Kinds.DEQUANTIZE):
            return None
        operator = made_by.get(operator.inputs[0])
    return None


def _model(content: bytes) -> Any:
    from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

    return read_model_from_bytearray(content)
