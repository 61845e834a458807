from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import efficientformer as ef
from efficientformer import InputError
from efficientformer.latency.untrained import untrained
from efficientformer.runtimes.base import Traced, random_image
from efficientformer.runtimes.onnx_files import convert_one, module_of
from efficientformer.runtimes.onnxruntime import int8 as onnx_int8
from efficientformer.runtimes.onnxruntime.int8 import quantise
from tests.strategies import tiny

IMAGES = random_image((12, 3, 32, 32))


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])


def outputs(module: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(images)).numpy()


def difference(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return ef.fold(untrained(tiny()))


@pytest.fixture(scope="module")
def model(network: nn.Module) -> onnx.ModelProto:
    return convert_one(Traced(network, (1, 3, 32, 32)))


@pytest.fixture(scope="module")
def path(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "new" / "model.onnx"
    quantise(model, IMAGES, path)
    return path


def test_a_network_in_int8_is_near_the_one_in_float32(network: nn.Module, path: Path) -> None:
    assert 0 < difference(run(path, IMAGES), outputs(network, IMAGES)) < 0.1
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_valid_and_its_weights_are_8_bit_by_channel(path: Path) -> None:
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    tensors = {one.name: one for one in loaded.graph.initializer}
    used = {name for node in loaded.graph.node for name in node.input}
    assert set(tensors) <= used
    feeds = {node.output[0]: node for node in loaded.graph.node}
    for node in loaded.graph.node:
        if node.op_type == "Conv":
            weight, scale = (tensors[name] for name in feeds[node.input[1]].input[:2])
            assert weight.data_type == onnx.TensorProto.INT8
            assert list(scale.dims) == [weight.dims[0]]
            assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() <= 64  # 7 bits


def test_logits_softmax_and_attention_stay_float32(path: Path) -> None:
    graph = onnx.load(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    assert makers[graph.output[0].name].op_type == "Gemm"
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert products
    assert not any(makers[name].op_type == "DequantizeLinear" for node in products for name in node.input)


def test_every_node_has_a_module(network: nn.Module, path: Path) -> None:
    modules = {name for name, _ in network.named_modules()} - {""}
    assert {module_of(node.name) for node in onnx.load(path).graph.node} <= modules


def test_the_same_images_give_the_same_file(model: onnx.ModelProto, path: Path, tmp_path: Path) -> None:
    before = model.SerializeToString()
    quantise(model, IMAGES, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert model.SerializeToString() == before  # the model given is left as it was


def test_it_is_silent(
    model: onnx.ModelProto,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers = logging.root.handlers[:]
    quantise(model, IMAGES[:2], tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, 0)


@pytest.mark.parametrize(
    "images", [IMAGES[:0], random_image((2, 3, 32, 33)), random_image((2, 32, 32))], ids=lambda one: one.shape
)
def test_images_must_fit(images: np.ndarray, model: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images to calibrate on"):
        quantise(model, images, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_where_no_histogram_can_be_made_extremes_are_taken(
    model: onnx.ModelProto, network: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of LeViT's activations: NumPy finds too many bins for their range."""
    real, tried = onnx_int8._quantise, []

    def without_histograms(*arguments: Any) -> None:
        tried.append(arguments[-1])
        if tried == ["Percentile"]:
            raise ValueError("Too many bins for data range. Cannot create 2048 finite-sized bins.")
        real(*arguments)

    monkeypatch.setattr(onnx_int8, "_quantise", without_histograms)
    quantise(model, IMAGES, tmp_path / "model.onnx")
    assert tried == ["Percentile", "MinMax"]
    assert 0 < difference(run(tmp_path / "model.onnx", IMAGES), outputs(network, IMAGES)) < 0.1
