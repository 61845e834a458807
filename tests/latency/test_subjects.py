from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper
from torch import nn

from efficientformer import PRESETS, InputError
from efficientformer.files import write_json
from efficientformer.latency import subjects as module
from efficientformer.latency.subjects import count_macs, peer, subject
from efficientformer.latency.target import Target
from tests.strategies import tiny

TARGET = Target()
PEER = "timm/test_vit2"  # half a million parameters


@pytest.fixture
def never_exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, Any]]:
    """Exporting takes seconds: instead of it, what would be exported is kept."""
    asked: list[tuple[nn.Module, Any]] = []

    def keep(network: nn.Module, target: Target, image: Any) -> Callable[[], object]:
        asked.append((network, image))
        return lambda: None

    monkeypatch.setattr(module, "network_runner", keep)
    monkeypatch.setitem(PRESETS, "tiny", tiny())
    return asked


def write_run(folder: Path) -> tuple[str, str]:
    """A run's folder, as far as measuring reads it."""
    write_json(folder / "run" / "architecture.json", tiny().to_json())
    return str(folder / "run"), str(folder / "run" / "architecture.json")


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("size", [None, 64])
def test_our_networks_by_each_of_their_names(
    index: int, size: int | None, tmp_path: Path, never_exported: list[tuple[nn.Module, Any]]
) -> None:
    name = ("tiny", *write_run(tmp_path))[index]
    expected = tiny(input_size=(size, size)) if size else tiny()
    found = subject(name, TARGET, size)
    ((network, image),) = never_exported
    assert network.architecture == expected
    assert (found.name, found.image, image) == (name, (3, *expected.input_size), (3, *expected.input_size))
    assert (found.params, found.macs) == (expected.params, expected.macs)


def test_a_preset(never_exported: list[tuple[nn.Module, Any]]) -> None:
    found = subject("efficientformer_l1", TARGET)
    assert (found.params, found.image) == (12_289_928, (3, 224, 224))
    assert never_exported[0][0].architecture == PRESETS["efficientformer_l1"]


def test_a_timm_model_runs() -> None:
    found = subject(PEER, TARGET)
    theirs = timm.create_model("test_vit2")
    assert found.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert found.image == timm.get_pretrained_cfg("test_vit2").input_size
    assert found.macs is not None
    assert found.macs > found.params  # each weight is used at least once for an image
    assert np.isfinite(found.call()).all()


def test_a_timm_model_at_another_size(never_exported: list[tuple[nn.Module, Any]]) -> None:
    own, larger = subject(PEER, TARGET), subject(PEER, TARGET, 224)
    assert larger.image == (3, 224, 224)
    assert own.image != larger.image
    assert larger.macs > own.macs
    assert [image for _, image in never_exported] == [own.image, larger.image]


def test_a_timm_model_is_given_its_deployed_form(never_exported: list[tuple[nn.Module, Any]]) -> None:
    found = subject("timm/repghostnet_050", TARGET)
    deployed = sum(parameter.numel() for parameter in never_exported[0][0].parameters())
    assert deployed < found.params  # its branches are merged for inference


def test_a_peer_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    generator = torch.get_rng_state()
    (first, _), (second, _) = peer(PEER, num_classes=7), peer(PEER, num_classes=7)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first(torch.zeros(1, 3, 160, 160)).shape == (1, 7)


def relu_file(path: Path, shape: list[int | str], number: int = TensorProto.FLOAT) -> str:
    x, y = (helper.make_tensor_value_info(name, number, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return str(path)


def test_an_exported_file(tmp_path: Path) -> None:
    name = relu_file(tmp_path / "model.onnx", [1, 3, 8, 16])
    found = subject(name, TARGET)
    assert (found.name, found.image, found.params, found.macs) == (name, (3, 8, 16), None, None)
    assert np.asarray(found.call()).shape == (1, 3, 8, 16)


def test_a_runs_folder_stands_for_its_exported_file(tmp_path: Path) -> None:
    folder, _ = write_run(tmp_path)
    relu_file(Path(folder) / "model.onnx", [1, 3, 8, 16])
    found = subject(folder, TARGET)
    assert (found.name, found.image) == (folder, (3, 8, 16))


@pytest.mark.parametrize("as_folder", [True, False])
def test_an_exported_file_has_its_own_size(as_folder: bool, tmp_path: Path) -> None:
    name = relu_file(tmp_path / "model.onnx", [1, 3, 8, 16])
    with pytest.raises(InputError, match=r"model\.onnx: was exported for 8×16 pixels, not --input-size 64"):
        subject(str(tmp_path) if as_folder else name, TARGET, 64)


def test_a_free_batch_is_measured_with_one_image(tmp_path: Path) -> None:
    found = subject(relu_file(tmp_path / "model.onnx", ["batch", 3, 8, 8]), TARGET)
    assert np.asarray(found.call()).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "number"), [([4, 3, 8, 8], TensorProto.FLOAT), ([1, 3, 8, 8], TensorProto.DOUBLE)]
)
def test_a_file_that_does_not_take_one_float32_image_is_refused(
    shape: list[int | str], number: int, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        subject(relu_file(tmp_path / "model.onnx", shape, number), TARGET)


def text(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (lambda _: "efficientformer_l2", "'efficientformer_l2' is not known.*efficientformer_l1.*timm/NAME"),
        (lambda _: "resnet18", "'resnet18' is not known.*timm/NAME"),
        (lambda p: str(p / "none.onnx"), "is not known; give one of"),
        (lambda p: str(p / "none.json"), "is not known; give one of"),
        (lambda p: text(p / "notes.txt", "milk"), "is not known; give one of"),
        (str, "holds no architecture.json; give a finished run's folder"),
        (lambda _: "timm/resnet1", "timm has no model 'resnet1'; near: .*resnet1"),
        (lambda _: "timm/mobilenetv2_1000", "near: mobilenet"),
        (lambda _: "timm/nothing-of-this-kind", "timm has no model 'nothing-of-this-kind'$"),
        (lambda _: "timm/", "timm has no model ''"),
        (lambda p: text(p / "model.onnx", "milk"), "ONNX Runtime cannot load it"),
        (lambda p: relu_file(p / "flat.onnx", [1, 8]), r"flat\.onnx: takes \(1, 8\), not one float32 image"),
        (lambda p: relu_file(p / "free.onnx", [1, 3, "h", "w"]), "not one float32 image"),
        (lambda p: text(p / "a.json", json.dumps({"format": "other"})), "expected a JSON object"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(
    name: Callable[[Path], str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        subject(name(tmp_path), TARGET)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("never_exported")
def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="pad to 128×128"):
        subject("tiny", TARGET, 100)


@pytest.mark.usefixtures("never_exported")
@pytest.mark.parametrize(("name", "size"), [(PEER, 161), ("timm/efficientformer_l1", 256)])
def test_a_size_that_a_timm_model_cannot_take_is_refused(name: str, size: int) -> None:
    with pytest.raises(InputError, match=str(size)):
        subject(name, TARGET, size)


@pytest.mark.parametrize("content", ["", "{", "milk"])
def test_a_damaged_architecture_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json"):
        subject(text(tmp_path / "a.json", content), TARGET)


@pytest.mark.parametrize(
    ("layer", "image", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 20), 3 * 8 * 9 * 10 * 20),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 10, 10), 4 * 9 * 8 * 8),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 60),
        (nn.ReLU(), (3, 2, 2), 0),
    ],
)
def test_count_macs(layer: nn.Module, image: tuple[int, int, int], expected: int) -> None:
    assert count_macs(layer, image) == expected
