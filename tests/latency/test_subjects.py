from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from onnx import TensorProto
from torch import nn

from efficientformer import PRESETS, Architecture, EfficientFormer, InputError, save_model
from efficientformer.files import write_json
from efficientformer.latency import subjects as module
from efficientformer.latency.subjects import Subject, count_macs, deployed_peer, peer, runtime_of, subject
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES
from tests.latency.files import conv_file, relu_file
from tests.strategies import randomised, tiny

PEER = "timm/test_vit2"  # half a million parameters


def write_run(folder: Path) -> Path:
    """A run's folder, as far as measuring reads it."""
    write_json(folder / "architecture.json", tiny().to_json())
    return folder


def built(one: Subject) -> nn.Module:
    assert one.build is not None
    return one.build()


# Networks of ours


@pytest.mark.parametrize(
    "named",
    [
        lambda p: "tiny",
        lambda p: str(write_run(p / "run")),
        lambda p: str(write_run(p / "run") / "architecture.json"),
    ],
)
@pytest.mark.parametrize("size", [None, 64])
def test_our_networks_by_each_of_their_names(
    named: Callable[[Path], str], size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny())
    name, expected = named(tmp_path), tiny(input_size=(size, size)) if size else tiny()
    found = subject(name, size)
    assert (found.name, found.image, found.files) == (name, (3, *expected.input_size), {})
    assert (found.params, found.macs) == (expected.params, expected.macs)
    network = built(found)
    assert isinstance(network, EfficientFormer)
    assert network.architecture == expected


def test_a_preset() -> None:
    found = subject("efficientformer_l1")
    assert (found.params, found.image) == (12_289_928, (3, 224, 224))


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_network_with_weights_of_its_own_keeps_them(as_folder: bool, tmp_path: Path) -> None:
    run, network = write_run(tmp_path / "run"), randomised(tiny())
    save_model(run / "model.safetensors", network)
    found = subject(str(run if as_folder else run / "model.safetensors"))
    mine = built(found).state_dict()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in network.state_dict().items())
    other = subject(str(run), 64)
    assert other.image == (3, 64, 64)
    assert other.params == tiny(input_size=(64, 64)).params


def test_the_identity_follows_from_shape_and_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    unweighted = subject(str(run))
    assert subject(str(run)).identity == unweighted.identity
    identities = {unweighted.identity, subject(str(run), 64).identity, subject("efficientformer_l1").identity}
    for seed in (0, 1):
        save_model(run / "model.safetensors", randomised(tiny(), seed))
        identities.add(subject(str(run)).identity)
    assert len(identities) == 5


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("efficientformer_l1", "efficientformer_l1"),
        ("timm/mobilenetv2_100", "mobilenetv2_100"),
        ("runs/my run/", "my-run"),
        ("a/ü.onnx", "-.onnx"),
        ("..", ".."),
        ("/", "network"),
        ("x" * 100, "x" * 60),
    ],
)
def test_a_name_fit_for_a_file(name: str, short: str) -> None:
    one = Subject(name, (3, 8, 8), None, None, "", None, {})
    assert one.short == short


# Exported files


def test_an_exported_file(tmp_path: Path) -> None:
    path = conv_file(tmp_path / "model.onnx")
    found = subject(str(path))
    assert (found.name, found.image, found.params, found.macs) == (str(path), (3, 32, 32), None, None)
    assert found.build is None
    assert found.file(Target()) == path


def test_a_file_stands_for_its_own_runtime_alone(tmp_path: Path) -> None:
    found = dataclasses.replace(subject("efficientformer_l1"), files={"onnxruntime": tmp_path / "a.onnx"})
    assert found.file(Target(threads=2)) == tmp_path / "a.onnx"
    with pytest.raises(InputError, match=r"of another runtime than openvino: a\.onnx \(onnxruntime\)"):
        found.file(Target("openvino"))


def test_a_runs_folder_stands_for_its_exported_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = relu_file(run / "model.onnx", [1, 3, 32, 32])
    assert subject(str(run)).files == {"onnxruntime": path}
    assert subject(str(run), 64).files == {}  # a file has its own size
    other = relu_file(run / "model.int8.onnx", [1, 3, 32, 32])
    left = subject(str(run))
    assert left.files == {"onnxruntime": path}
    assert left.reduced == {("onnxruntime", "int8"): other}
    assert left.deployed(Target(precision="int8")) == other
    assert subject(str(run), 64).deployed(Target(precision="int8")) is None


@pytest.mark.parametrize(("name", "runtime"), [*((one.suffix, one.name) for one in RUNTIMES.values())])
def test_the_ending_tells_the_runtime(name: str, runtime: str) -> None:
    assert runtime_of(Path(f"model{name}")) == runtime
    assert runtime_of(Path("model.txt")) is None


def test_an_exported_file_has_its_own_size(tmp_path: Path) -> None:
    path = relu_file(tmp_path / "model.onnx", [1, 3, 8, 16])
    with pytest.raises(InputError, match=r"model\.onnx: was exported for 8×16 pixels, not --input-size 64"):
        subject(str(path), 64)


def test_a_free_batch_is_measured_with_one_image(tmp_path: Path) -> None:
    path = relu_file(tmp_path / "model.onnx", ["batch", 3, 8, 8])
    assert subject(str(path)).image == (3, 8, 8)


# Peers


def test_a_timm_model() -> None:
    found = subject(PEER)
    theirs = timm.create_model("test_vit2")
    assert found.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert found.image == timm.get_pretrained_cfg("test_vit2").input_size
    assert found.macs is not None
    assert found.macs > found.params  # each weight is used at least once for an image
    assert built(found)(torch.zeros(1, *found.image)).isfinite().all()


def test_a_timm_model_at_another_size() -> None:
    own, larger = subject(PEER), subject(PEER, 224)
    assert larger.image == (3, 224, 224)
    assert own.image != larger.image
    assert own.macs is not None
    assert larger.macs is not None
    assert larger.macs > own.macs


def test_a_timm_model_is_given_its_deployed_form() -> None:
    found = subject("timm/repghostnet_050")
    deployed = sum(parameter.numel() for parameter in built(found).parameters())
    assert found.params is not None
    assert deployed < found.params  # its branches are merged for inference


def test_no_norm_of_a_deployed_peer_can_be_left_out() -> None:
    norms = [one for one in deployed_peer(PEER).modules() if isinstance(one, nn.LayerNorm)]
    assert norms
    assert all(((one.weight >= 0.5) & (one.weight < 1)).all() for one in norms)


def test_a_peer_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    generator = torch.get_rng_state()
    (first, _), (second, _) = peer(PEER, num_classes=7), peer(PEER, num_classes=7)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first(torch.zeros(1, 3, 160, 160)).shape == (1, 7)


# What is refused


def text(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (lambda _: "efficientformer_l2", "'efficientformer_l2' is not known.*efficientformer_l1.*timm/NAME"),
        (lambda _: "resnet18", "'resnet18' is not known.*timm/NAME"),
        (lambda p: str(p / "none.onnx"), r"none\.onnx: no such file"),
        (lambda p: str(p / "none.json"), "is not known; give one of"),
        (lambda p: text(p / "notes.txt", "milk"), "is not known; give one of"),
        (str, "holds no architecture.json; give a finished run's folder"),
        (lambda _: "timm/resnet1", "timm has no model 'resnet1'; near: .*resnet1"),
        (lambda _: "timm/mobilenetv2_1000", "near: mobilenet"),
        (lambda _: "timm/nothing-of-this-kind", "timm has no model 'nothing-of-this-kind'$"),
        (lambda _: "timm/", "timm has no model ''"),
        (lambda p: text(p / "model.onnx", "milk"), "ONNX Runtime cannot load it"),
        (lambda p: str(relu_file(p / "flat.onnx", [1, 8])), r"flat\.onnx: takes \(1, 8\), not one image"),
        (lambda p: str(relu_file(p / "free.onnx", [1, 3, "h", "w"])), r"\(1, 3, 0, 0\), not one image"),
        (lambda p: str(relu_file(p / "four.onnx", [4, 3, 8, 8])), r"\(4, 3, 8, 8\), not one image"),
        (
            lambda p: str(relu_file(p / "a.onnx", [1, 3, 8, 8], TensorProto.DOUBLE)),
            "takes other numbers than 32-bit floats",
        ),
        (lambda p: text(p / "a.json", json.dumps({"format": "other"})), "expected a JSON object"),
        (lambda p: text(p / "a.json", ""), r"a\.json"),
        (lambda p: text(p / "a.json", "{"), r"a\.json"),
        (lambda p: text(p / "a.safetensors", "milk"), r"a\.safetensors"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(
    name: Callable[[Path], str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        subject(name(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("efficientformer_l1", 100, "pad to 128×128"),
        (PEER, 161, "161"),
        ("timm/efficientformer_l1", 256, "256"),
    ],
)
def test_a_size_that_a_model_cannot_take_is_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subject(name, size)


def test_nothing_is_built_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Architecture] = []
    monkeypatch.setattr(module, "untrained", asked.append)
    one = subject("efficientformer_l1")
    assert asked == []
    built(one)
    assert asked == [PRESETS["efficientformer_l1"]]


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
