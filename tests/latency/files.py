"""ONNX files put together by hand, in no time, for tests of everything that runs files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def relu_file(path: Path, shape: Sequence[int | str | None], number: int = TensorProto.FLOAT) -> Path:
    """A model that gives what it takes, negative numbers as zeros."""
    x, y = (helper.make_tensor_value_info(name, number, list(shape)) for name in "xy")
    return _save(path, [helper.make_node("Relu", ["x"], ["y"])], x, y, [])


def conv_file(path: Path, side: int = 32, channels: int = 8, classes: int = 3) -> Path:
    """A convolution, a pooling and a linear layer with random weights: a tenth of a millisecond or so."""
    random = np.random.default_rng(0)
    weights = {
        "conv": random.standard_normal((channels, 3, 3, 3), dtype=np.float32),
        "linear": random.standard_normal((channels, classes), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], name="0/Conv_0"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], name="1/Pool_1"),
        helper.make_node("Flatten", ["b"], ["c"], name="2/Flatten_2"),
        helper.make_node("MatMul", ["c", "linear"], ["y"], name="3/MatMul_3"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])
    return _save(path, nodes, x, y, [numpy_helper.from_array(one, name) for name, one in weights.items()])


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    x: onnx.ValueInfoProto,
    y: onnx.ValueInfoProto,
    weights: list[onnx.TensorProto],
) -> Path:
    graph = helper.make_graph(nodes, "graph", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path
