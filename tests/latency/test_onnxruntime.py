from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from efficientformer import InputError
from efficientformer.latency.runtimes import RUNTIMES, Traced
from efficientformer.latency.runtimes.onnxruntime import OnnxRuntime

RUNTIME = OnnxRuntime()
TOLERANCE = 1e-5


def outputs(module: nn.Module, array: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(array)).numpy()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_it_is_the_default_runtime() -> None:
    assert isinstance(RUNTIMES["onnxruntime"], OnnxRuntime)
    assert RUNTIME.version() == onnxruntime.__version__
    assert (RUNTIME.suffix, RUNTIME.devices, RUNTIME.precisions) == (".onnx", ("cpu",), ("fp32",))


def test_an_exported_file_computes_what_the_module_does(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    path = tmp_path / "new" / "model.onnx"
    RUNTIME.export(Traced(module, (1, 3, 8, 8)), path)
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert [one.name for one in graph.input] == ["images"]
    assert [one.name for one in graph.output] == ["logits"]
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]  # the weights are inside
    for threads in (1, 2):
        session = RUNTIME.load(path, threads)
        assert session.shape == (1, 3, 8, 8)
        x = random(1, 3, 8, 8)
        assert np.allclose(session.run(x), outputs(module, x), atol=TOLERANCE)


def test_modules_exported_together_are_parted_again() -> None:
    shared = nn.Linear(6, 6)
    modules: list[tuple[nn.Module, tuple[int, ...]]] = [
        (nn.Conv2d(3, 4, 3), (1, 3, 8, 8)),
        (nn.Sequential(shared, nn.ReLU()), (1, 7, 6)),
        (nn.Sequential(shared, nn.GELU()), (1, 6)),
        (nn.ReLU(), (1, 8)),
    ]
    files = RUNTIME.export_many([Traced(module, shape) for module, shape in modules])
    for (module, shape), content in zip(modules, files, strict=True):
        session = RUNTIME.load(content, 1)
        assert session.shape == shape
        x = random(*shape)
        assert np.allclose(session.run(x), outputs(module, x), atol=TOLERANCE)
    biggest = max(onnx.load_from_string(content).ByteSize() for content in files[3:])
    assert biggest < 2000  # the weights of the others are not in it


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


def test_modules_are_exported_in_evaluation_mode() -> None:
    (content,) = RUNTIME.export_many([Traced(Doubling().train(), (1, 2))])
    x = random(1, 2)
    assert np.array_equal(RUNTIME.load(content, 1).run(x), x)


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
    declared: list[int | str | None], expected: tuple[int, ...]
) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, declared) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    opset = [helper.make_opsetid("", 20)]
    content = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    assert RUNTIME.load(content, 1).shape == expected


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" * 40])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, "model")):
        with pytest.raises(InputError, match="ONNX Runtime cannot load it") as caught:
            RUNTIME.load(source, 1)
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: ONNX Runtime cannot load it"):
        RUNTIME.load(tmp_path / "none.onnx", 1)
