"""What other people's .tflite files say of themselves, against LiteRT's interpreter."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray
from torch import nn

from efficientformer.runtimes.base import Traced, random_image
from efficientformer.runtimes.tflite.files import convert
from efficientformer.runtimes.tflite.foreign import input_quantisation, without_softmax
from efficientformer.runtimes.tflite.parts import packed

SHAPE = (1, 3, 8, 8)


def network(end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(5, 4), end)


@pytest.fixture(scope="module")
def soft() -> bytes:
    return convert(Traced(network(nn.Softmax(1)), SHAPE))


@pytest.fixture(scope="module")
def integers(soft: bytes) -> bytes:
    """Its int8 form, from end to end."""
    from ai_edge_quantizer import quantizer, recipe

    work = quantizer.Quantizer(soft, recipe.static_wi8_ai8())
    with warnings.catch_warnings(action="ignore"):
        ranges = work.calibrate({"serving_default": [{"args_0": random_image(SHAPE)}]}, num_threads=1)
        return bytes(work.quantize(ranges).quantized_model or b"")


def run(content: bytes, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The real numbers that come out, and what LiteRT says of the input, which it is given as integers."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = taken["quantization"]
    numbers = np.clip(np.round(image / scale) + zero, -128, 127) if scale else image
    interpreter.set_tensor(taken["index"], numbers.astype(taken["dtype"]))
    interpreter.invoke()
    output, (scale, zero) = interpreter.get_tensor(given["index"]).astype(np.float32), given["quantization"]
    return (output - zero) * scale if scale else output, taken


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("form", ["soft", "integers"])
def test_a_file_gives_what_its_softmax_was_given(form: str, request: pytest.FixtureRequest) -> None:
    content, image = request.getfixturevalue(form), random_image(SHAPE)
    shorter = without_softmax(content)
    assert shorter is not None
    probabilities, logits = run(content, image)[0], run(shorter, image)[0]
    assert abs(logits.sum() - 1) > 0.05  # they are no probabilities any more
    np.testing.assert_allclose(softmax(logits), probabilities, atol=1e-5 if form == "soft" else 1 / 256)
    assert without_softmax(shorter) is None


def test_a_softmax_with_a_temperature_stays(soft: bytes) -> None:
    model: Any = read_model_from_bytearray(soft)
    (last,) = [one for one in model.subgraphs[0].operators if hasattr(one.builtinOptions, "beta")]
    last.builtinOptions.beta = 2.0
    for buffer in model.buffers:
        buffer.data = None if buffer.data is None else np.frombuffer(bytes(buffer.data), np.uint8)
    assert without_softmax(packed(model)) is None


def test_a_file_without_a_softmax_is_left_alone() -> None:
    assert without_softmax(convert(Traced(network(nn.Sigmoid()), SHAPE))) is None


def test_integers_stand_for_what_litert_says(soft: bytes, integers: bytes) -> None:
    assert input_quantisation(soft) is None
    found = input_quantisation(integers)
    assert found is not None
    scale, zero = run(integers, random_image(SHAPE))[1]["quantization"]
    assert (found.scale, found.zero) == (pytest.approx(scale), zero + 128)


def test_unsigned_integers_count_from_zero(integers: bytes) -> None:
    from ai_edge_litert.schema_py_generated import TensorType

    model: Any = read_model_from_bytearray(integers)
    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    tensor.type, tensor.quantization.zeroPoint = TensorType.UINT8, np.array([127])
    for buffer in model.buffers:
        buffer.data = None if buffer.data is None else np.frombuffer(bytes(buffer.data), np.uint8)
    found = input_quantisation(packed(model))
    assert found is not None
    assert found.zero == 127
