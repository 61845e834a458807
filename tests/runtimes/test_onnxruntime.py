from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from efficientformer import InputError, fold
from efficientformer.runtimes import RUNTIMES, Operator, Settings, Trace, Traced
from efficientformer.runtimes.base import random_image, version
from efficientformer.runtimes.onnx_files import module_of
from efficientformer.runtimes.onnxruntime import OnnxRuntime
from efficientformer.runtimes.onnxruntime import runtime as module
from tests.latency.files import conv_file, relu_file
from tests.strategies import randomised, tiny

RUNTIME, SETTINGS = OnnxRuntime(), Settings()
TOLERANCE = 1e-5


def outputs(network: nn.Module, array: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(array)).numpy()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_it_is_the_default_runtime() -> None:
    assert isinstance(RUNTIMES["onnxruntime"], OnnxRuntime)
    assert next(iter(RUNTIMES)) == "onnxruntime"
    assert version(RUNTIME) == onnxruntime.__version__
    assert (RUNTIME.suffix, RUNTIME.devices, RUNTIME.precisions) == (
        ".onnx",
        ("cpu", "cuda"),
        ("fp32", "int8"),
    )
    assert RUNTIME.extra == ""
    assert RUNTIME.trouble() is None


def test_a_build_without_the_device_is_no_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert RUNTIME.trouble("cpu") is None
    trouble = RUNTIME.trouble("cuda")
    assert trouble is not None
    assert "no CUDAExecutionProvider; pip install onnxruntime-gpu" in trouble


def test_an_exported_file_computes_what_the_module_does(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    path = tmp_path / "new" / "model.onnx"
    RUNTIME.export(Traced(network, (1, 3, 8, 8)), path)
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert [one.name for one in graph.input] == ["images"]
    assert [one.name for one in graph.output] == ["logits"]
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]  # the weights are inside
    assert RUNTIME.files(path) == (path,)
    for threads in (1, 2):
        session = RUNTIME.load(path, Settings(threads=threads))
        assert session.shape == (1, 3, 8, 8)
        assert session.takes_float32
        x = random(1, 3, 8, 8)
        assert np.allclose(session.run(x), outputs(network, x), atol=TOLERANCE)


def test_int8_without_images_to_calibrate_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8 needs images to calibrate on; give --images DIR"):
        RUNTIME.export(Traced(nn.ReLU(), (1, 3, 8, 8)), tmp_path / "a.onnx", "int8")
    assert list(tmp_path.iterdir()) == []


def test_modules_exported_together_are_parted_again(tmp_path: Path) -> None:
    shared = nn.Linear(6, 6)
    modules: list[tuple[nn.Module, tuple[int, ...]]] = [
        (nn.Conv2d(3, 4, 3), (1, 3, 8, 8)),
        (nn.Sequential(shared, nn.ReLU()), (1, 7, 6)),
        (nn.Sequential(shared, nn.GELU()), (1, 6)),
        (nn.ReLU(), (1, 8)),
    ]
    files = RUNTIME.export_many([Traced(one, shape) for one, shape in modules], tmp_path)
    for (one, shape), file in zip(modules, files, strict=True):
        session = RUNTIME.load(file, SETTINGS)
        assert session.shape == shape
        x = random(*shape)
        assert np.allclose(session.run(x), outputs(one, x), atol=TOLERANCE)
    assert files[3].stat().st_size < 2000  # the weights of the others are not in it


def test_modules_quantised_together_compute_what_each_does_alone(tmp_path: Path) -> None:
    modules = [nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 1)) for width in (8, 16)]
    traced, images = [Traced(one, (1, 3, 8, 8)) for one in modules], [random(4, 3, 8, 8) for _ in modules]
    (tmp_path / "many").mkdir()
    together = RUNTIME.export_many(traced, tmp_path / "many", "int8", images)
    settings, x = Settings(precision="int8"), random(1, 3, 8, 8)
    for item, calibration, file in zip(traced, images, together, strict=True):
        RUNTIME.export(item, tmp_path / "alone.onnx", "int8", calibration)
        alone = RUNTIME.load(tmp_path / "alone.onnx", settings).run(x)
        assert np.array_equal(RUNTIME.load(file, settings).run(x), alone)
    with pytest.raises(InputError, match="int8 needs images to calibrate on"):
        RUNTIME.export_many(traced, tmp_path / "none", "int8")


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


def test_modules_are_exported_in_evaluation_mode(tmp_path: Path) -> None:
    (file,) = RUNTIME.export_many([Traced(Doubling().train(), (1, 2))], tmp_path)
    x = random(1, 2)
    assert np.array_equal(RUNTIME.load(file, SETTINGS).run(x), x)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ([1, 3, 8, 8], (1, 3, 8, 8)),
        (["batch", 3, 8, 8], (1, 3, 8, 8)),
        ([None, 3, None, "width"], (1, 3, 0, 0)),
        (["batch"], (1,)),
    ],
)
def test_a_free_batch_counts_as_one_and_other_free_sides_as_none(
    declared: list[int | str | None], expected: tuple[int, ...], tmp_path: Path
) -> None:
    path = relu_file(tmp_path / "relu.onnx", declared)
    assert RUNTIME.load(path, SETTINGS).shape == expected


def test_a_file_that_takes_other_numbers_says_so(tmp_path: Path) -> None:
    path = relu_file(tmp_path / "relu.onnx", [1, 8], onnx.TensorProto.DOUBLE)
    assert not RUNTIME.load(path, SETTINGS).takes_float32


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 40])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="ONNX Runtime cannot load it") as caught:
        RUNTIME.load(path, SETTINGS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: ONNX Runtime cannot load it"):
        RUNTIME.load(tmp_path / "none.onnx", SETTINGS)


# The runtime's own profile


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A folded network's profile."""
    path = tmp_path_factory.mktemp("traced") / "tiny.onnx"
    RUNTIME.export(Traced(fold(randomised(tiny())), (1, 3, 32, 32)), path)
    return RUNTIME.operators(path, SETTINGS, random_image((1, 3, 32, 32)), 20)


def test_every_operator_has_a_time_and_most_a_module(traced: Trace) -> None:
    assert len(traced.whole_ms) == 20
    assert traced.profiler == "ONNX Runtime's session profiler"
    assert all(one.ms >= 0 for one in traced.operators)
    named = {name for name, _ in fold(randomised(tiny())).named_modules() if name}
    assert {one.source for one in traced.operators} <= named | {""}
    kinds = Counter(one.kind for one in traced.operators if one.source)
    assert (kinds["Softmax"], kinds["LayerNormalization"]) == (2, 5)
    computing = [one for one in traced.operators if one.kind.endswith(("Conv", "MatMul", "Gemm"))]
    assert len(computing) > 20
    assert sum(bool(one.source) for one in computing) >= 0.9 * len(computing)  # the optimiser renames nodes
    assert all("→" in one.detail for one in traced.operators)


def test_operators_take_no_longer_than_the_whole(traced: Trace) -> None:
    whole = sorted(traced.whole_ms)[len(traced.whole_ms) // 2]
    assert 0 < sum(one.ms for one in traced.operators) < 2 * whole  # on however busy a machine


def test_nodes_that_the_runtime_put_in_have_another_role(traced: Trace) -> None:
    assert {one.role for one in traced.operators} <= {"compute", "convert"}
    assert not [one for one in traced.operators if one.role == "convert" and one.kind.startswith("Conv")]


@pytest.mark.parametrize(
    ("name", "kind", "provider", "role"),
    [
        ("0.1/Conv_3", "Conv", "CPUExecutionProvider", "compute"),
        ("0.1/Transpose_4", "Transpose", "CPUExecutionProvider", "compute"),  # the network's own
        ("Transpose_4", "Transpose", "CPUExecutionProvider", "convert"),
        ("ReorderInput", "ReorderInput", "CPUExecutionProvider", "convert"),
        ("0.1/Conv_3_quant", "QuantizeLinear", "CPUExecutionProvider", "convert"),
        ("0.1/Conv_3", "Conv", "CUDAExecutionProvider", "fallback"),
    ],
)
def test_roles(name: str, kind: str, provider: str, role: str) -> None:
    about = {"op_name": kind, "provider": provider}
    found = module._operator(name, 1.5, about, SETTINGS, {})
    assert (found.role, found.kind, found.ms) == (role, kind, 1.5)


@pytest.mark.parametrize(("name", "path"), [("3.mlp/Conv_7", "3.mlp"), ("/Add_1", ""), ("Add_1", "")])
def test_a_nodes_name_tells_its_module(name: str, path: str) -> None:
    assert module_of(name) == path


def test_a_file_made_elsewhere_is_profiled_by_node(tmp_path: Path) -> None:
    path = conv_file(tmp_path / "model.onnx")
    operators = RUNTIME.operators(path, SETTINGS, random_image((1, 3, 32, 32)), 3).operators
    convolution = next(one for one in operators if one.kind == "Conv")
    assert isinstance(convolution, Operator)
    assert convolution.detail.startswith("1×3×32×32")
    assert convolution.detail.endswith("×30×30")
