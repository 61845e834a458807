"""Networks by name, against the networks themselves, timm's transforms and other runtimes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

import efficientformer as ef
from efficientformer import InputError
from efficientformer.evaluation.classifier import classifier
from efficientformer.evaluation.exported import ExportedFile
from efficientformer.evaluation.protocol import Protocol
from efficientformer.latency.process import Process
from efficientformer.latency.target import Target
from efficientformer.model.weights import save_tensors
from efficientformer.runtimes import RUNTIMES, MissingRuntimeError, Traced
from tests.latency.files import conv_file, relu_file
from tests.strategies import randomise, randomised, tiny

NET, FILE = "model.safetensors", "model.onnx"
PREPARATION = {
    "resize": 37,
    "crop": 32,
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2] * 3,
}
CLASSES = ["cat", "dog", "eel"]


def images(side: int = 32, count: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def told(folder: Path, **more: Any) -> Path:
    about = {"preprocessing": PREPARATION, "classes": CLASSES, **more}
    (folder / "summary.json").write_text(json.dumps(about))
    return folder


def peer(classes: int) -> nn.Module:
    network = timm.create_model("test_resnet", num_classes=classes).eval()
    randomise(network, 0)
    return network


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> Tensor:
    return network.eval()(x)


@pytest.fixture(scope="module")
def trained() -> ef.EfficientFormer:
    return randomised(tiny())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of which nothing is known."""
    return conv_file(tmp_path_factory.mktemp("alone") / "foreign.onnx")


def test_a_network_of_ours(trained: ef.EfficientFormer, tmp_path: Path) -> None:
    ef.save_model(tmp_path / NET, trained)
    with classifier(str(tmp_path / NET)) as found:
        torch.testing.assert_close(found.logits(images()), outputs(trained, images()))
        assert (found.kind, found.outputs, found.classes) == ("ours", 3, None)
        assert found.protocol == Protocol("own", 33, 32)  # ⌊32 / 0.95⌋
        assert not found.logits(images().requires_grad_()).requires_grad
    smaller = classifier(str(tmp_path / NET), input_size=64)
    assert smaller.protocol.crop == 64
    assert smaller.logits(images(64)).shape == (3, 3)


def test_a_preset_with_the_weights_of_a_file(tmp_path: Path) -> None:
    network = randomised(ef.PRESETS["efficientformerv2_s0"])
    ef.save_model(tmp_path / NET, network)
    found = classifier("efficientformerv2_s0", pretrained=str(tmp_path / NET))
    wanted = outputs(network, images(224, 1))
    torch.testing.assert_close(found.logits(images(224, 1)), wanted, rtol=1e-3, atol=1e-4)
    assert found.protocol == Protocol("own", 235, 224)


@pytest.mark.parametrize("inside", ["", NET], ids=["folder", "weights"])
def test_a_run(trained: ef.EfficientFormer, tmp_path: Path, inside: str) -> None:
    ef.save_model(told(tmp_path) / NET, trained)
    found = classifier(str(tmp_path / inside))
    torch.testing.assert_close(found.logits(images()), outputs(trained, images()))
    assert (found.kind, found.classes) == ("ours", ("cat", "dog", "eel"))
    assert found.protocol == Protocol("run", 37, 32, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), square=True)


def test_a_trained_peer(tmp_path: Path) -> None:
    network = peer(3)
    save_tensors(told(tmp_path, model="timm/test_resnet") / NET, network.state_dict(), {})
    found = classifier(str(tmp_path))
    torch.testing.assert_close(found.logits(images()), outputs(network, images()))
    assert (found.kind, found.outputs, found.classes) == ("timm", 3, ("cat", "dog", "eel"))
    assert found.protocol.square


@pytest.mark.parametrize("classes", [1000, 5])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_peer_with_the_weights_of_a_file(tmp_path: Path, suffix: str, classes: int) -> None:
    network, path = peer(classes), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": one for key, one in network.state_dict().items()}}, path)
    else:
        save_tensors(path, network.state_dict(), {})
    found = classifier("timm/test_resnet.r160_in1k", pretrained=str(path))
    torch.testing.assert_close(found.logits(images(160)), outputs(network, images(160)))
    assert (found.kind, found.outputs, found.classes) == ("timm", classes, None)
    assert classifier("timm/test_resnet", pretrained=str(path), input_size=96).protocol.crop == 96


def test_a_peers_pictures_are_prepared_as_timm_does(tmp_path: Path) -> None:
    network = peer(5)
    save_tensors(tmp_path / NET, network.state_dict(), {})
    noise = np.random.default_rng(0).integers(0, 255, (230, 300, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(model=network))(picture)
    found = classifier("timm/test_resnet", pretrained=str(tmp_path / NET))
    torch.testing.assert_close(found.protocol.prepare(picture), theirs)


def test_a_module_moves(trained: ef.EfficientFormer, tmp_path: Path) -> None:
    ef.save_model(tmp_path / NET, trained)
    found = classifier(str(tmp_path / NET)).to("meta")
    assert found.logits(images().to("meta")).device.type == "meta"


def test_published_weights_are_fetched_by_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    network = peer(1000)

    def create(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return network

    monkeypatch.setattr(timm, "create_model", create)
    found = classifier("timm/test_resnet.r160_in1k", pretrained="hub")
    assert asked == [("test_resnet.r160_in1k", {"pretrained": True})]
    assert (found.outputs, found.protocol.crop, found.protocol.mean) == (1000, 160, (0.5, 0.5, 0.5))


def test_the_hub_may_be_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **options: Any) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(
        InputError, match=r"could not be fetched .* \(OSError: no network\); .* --pretrained FILE"
    ):
        classifier("timm/test_resnet.r160_in1k", pretrained="hub")


def test_an_exported_file_of_which_nothing_is_known(exported: Path) -> None:
    with classifier(str(exported)) as found, Process(exported, Target()) as process:
        wanted = torch.from_numpy(process.run(images(count=9).numpy()))
        torch.testing.assert_close(found.logits(images(count=9)), wanted)
        assert (found.kind, found.outputs, found.classes) == ("file", 3, None)
        assert found.protocol == Protocol.parse("paper", 32)
        assert isinstance(found.engine, ExportedFile)
        pid = found.engine.pid
    assert not Path(f"/proc/{pid}").exists()


def test_an_exported_file_in_its_run(trained: ef.EfficientFormer, tmp_path: Path) -> None:
    ef.save_model(told(tmp_path) / NET, trained)
    conv_file(tmp_path / FILE)
    with classifier(str(tmp_path / FILE)) as found:
        assert found.classes == ("cat", "dog", "eel")
        assert (found.protocol.name, found.protocol.mean) == ("run", (0.5, 0.4, 0.3))


EXPORTS: dict[str, tuple[dict[str, Any], Protocol, tuple[str, ...] | None]] = {
    "of a preset": ({"model": "efficientformer_l1"}, Protocol("own", 33, 32), None),
    "of a peer": (
        {"model": "timm/test_resnet"},
        Protocol("own", 33, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        None,
    ),
    "of a run that is gone": ({"model": "runs/gone"}, Protocol.parse("paper", 32), None),
    "that tells": (
        {"model": "runs/gone", "preprocessing": PREPARATION, "classes": CLASSES},
        Protocol("own", 37, 32, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
        ("cat", "dog", "eel"),
    ),
    "of another size": (
        {"model": "runs/gone", "preprocessing": {**PREPARATION, "crop": 24}},
        Protocol.parse("paper", 32),
        None,
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_exported_file_beside_its_export(name: str, tmp_path: Path) -> None:
    about, protocol, classes = EXPORTS[name]
    path = conv_file(tmp_path / "mine.onnx")
    files = [{"artefact": None}, {"artefact": {"path": path.name}}]
    (tmp_path / "mine.export.json").write_text(json.dumps({**about, "files": files}))
    (tmp_path / "other.export.json").write_text(json.dumps({"model": "x", "files": [{"artefact": None}]}))
    with classifier(str(path)) as found:
        assert (found.protocol, found.classes) == (protocol, classes)


def test_probabilities_become_logits(tmp_path: Path) -> None:
    graph = onnx.load(conv_file(tmp_path / "plain.onnx"))
    graph.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["z"]))
    graph.graph.output[0].name = "z"
    onnx.save(graph, tmp_path / "soft.onnx")
    with classifier(str(tmp_path / "plain.onnx")) as plain, classifier(str(tmp_path / "soft.onnx")) as soft:
        torch.testing.assert_close(soft.logits(images()), plain.logits(images()).log_softmax(1))
        assert soft.logits(100 * images()).isfinite().all()


class Backwards(nn.Module):
    """Channels last, as TensorFlow's networks take images; probabilities come out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.permute(0, 3, 1, 2)).softmax(1)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    randomise(network, 3)
    return network.eval()


@pytest.fixture(scope="module")
def tflite(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as TensorFlow makes them, of floats."""
    path = tmp_path_factory.mktemp("tflite") / "theirs.tflite"
    RUNTIMES["tflite"].export(Traced(Backwards(small), (1, 16, 16, 3)), path)
    return path


def test_a_file_with_channels_last_loses_its_softmax(small: nn.Module, tflite: Path) -> None:
    with classifier(str(tflite)) as found:
        torch.testing.assert_close(found.logits(images(16)), outputs(small, images(16)), rtol=1e-4, atol=1e-4)
        assert found.protocol == Protocol.parse("paper", 16)


@pytest.fixture(scope="module")
def quantised(tflite: Path) -> Path:
    """The same in integers from end to end, made for bytes that stand for numbers from −1 to 1."""
    from ai_edge_quantizer import quantizer, recipe

    random = np.random.default_rng(1)
    samples = [{"args_0": random.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)} for _ in range(32)]
    work = quantizer.Quantizer(str(tflite), recipe.static_wi8_ai8())
    with warnings.catch_warnings(action="ignore"):
        ranges = work.calibrate({"serving_default": samples}, num_threads=1)
        path = tflite.with_name("bytes.tflite")
        path.write_bytes(bytes(work.quantize(ranges).quantized_model or b""))
    return path


def test_a_file_of_bytes_tells_its_own_preparation(small: nn.Module, quantised: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (18, 18, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    with classifier(str(quantised)) as found:
        assert (found.protocol.resize, found.protocol.crop) == (18, 16)
        assert found.protocol.mean == pytest.approx((0.5, 0.5, 0.5), abs=0.01)
        assert found.protocol.std == pytest.approx((0.5, 0.5, 0.5), abs=0.01)
        x = found.protocol.prepare(picture)[None]
        wanted = outputs(small, x)
        assert float((found.logits(x) - wanted).abs().max() / wanted.abs().max()) < 0.05


def test_an_int8_file_needs_no_target(small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    RUNTIMES["tflite"].export(Traced(small, (1, 3, 16, 16)), path, "int8", images(16, 8).numpy())
    with classifier(str(path)) as found:
        wanted = outputs(small, images(16))
        assert float((found.logits(images(16)) - wanted).abs().max() / wanted.abs().max()) < 0.05
    with pytest.raises(InputError, match="holds int8, the target says fp32"):
        classifier(str(path), target=Target("tflite"))


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "efficientformer.runtimes.base.installed", lambda package: None if "litert" in package else "1"
    )
    (tmp_path / "theirs.tflite").write_bytes(b"")
    with pytest.raises(MissingRuntimeError, match=r"pip install 'efficientformer\[tflite\]'"):
        classifier(str(tmp_path / "theirs.tflite"))


@pytest.fixture
def wrong(tmp_path: Path, trained: ef.EfficientFormer) -> Iterator[Path]:
    """A folder of things that do not work."""
    for folder in ("run", "torn"):
        (tmp_path / folder).mkdir()
        ef.save_model(tmp_path / folder / NET, trained)
    told(tmp_path / "run")
    (tmp_path / "torn" / "summary.json").write_text("{}")
    ef.save_model(tmp_path / "features.safetensors", randomised(tiny(num_classes=0)))
    save_tensors(tmp_path / "peer.safetensors", peer(3).state_dict(), {})
    conv_file(tmp_path / "good.onnx")
    relu_file(tmp_path / "grey.onnx", (1, 1, 8, 8))
    relu_file(tmp_path / "wide.onnx", (1, 3, 8, 16))
    relu_file(tmp_path / "maps.onnx", (1, 3, 8, 8))
    relu_file(tmp_path / "bytes.onnx", (1, 3, 8, 8), onnx.TensorProto.INT32)
    (tmp_path / "damaged.onnx").write_bytes(b"x" * 99)
    (tmp_path / "damaged.tflite").write_bytes(b"TFL3" * 30)
    (tmp_path / "more").mkdir()
    conv_file(told(tmp_path / "more", classes=["cat"]) / FILE)
    ef.save_model(tmp_path / "more" / NET, trained)
    yield tmp_path


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("efficientformer_l1", {}, "has no weights of its own: give --pretrained FILE, or --pretrained hub"),
        ("timm/test_resnet", {}, "has no weights of its own: give --pretrained FILE, or --pretrained hub"),
        ("timm/test_resnet.nonsense", {"pretrained": "hub"}, r"Invalid pretrained tag \(nonsense\)"),
        ("timm/nonsense", {"pretrained": "hub"}, "timm has no model 'nonsense'"),
        ("timm/test_vit", {"pretrained": "@/peer.safetensors"}, "does not hold the weights of timm/test_vit"),
        ("timm/test_resnet", {"pretrained": "@/none.pth"}, "no such file"),
        ("nonsense", {}, "model 'nonsense' is not known"),
        ("@/none.onnx", {}, r"none\.onnx: no such file"),
        ("@/run", {"input_size": 64}, "was trained at 32 pixels; leave --input-size out"),
        ("@/run", {"pretrained": "hub"}, "has its own weights"),
        ("@/run", {"target": Target()}, "is no exported file; a target .* is for those"),
        ("@/torn", {}, r"summary\.json: does not say how pictures are prepared"),
        ("@/features.safetensors", {}, "gives features, not classes"),
        ("@/good.onnx", {"input_size": 64}, "was exported for 32 pixels"),
        ("@/good.onnx", {"pretrained": "hub"}, "has its own weights"),
        ("@/good.onnx", {"target": Target("openvino")}, "no OpenVINO file of that name"),
        ("@/grey.onnx", {}, r"takes \(1, 1, 8, 8\), not one square RGB image"),
        ("@/wide.onnx", {}, r"takes \(1, 3, 8, 16\), not one square RGB image"),
        ("@/maps.onnx", {}, r"gives \(3, 8, 8\) for an image, not one row of classes"),
        ("@/bytes.onnx", {}, "takes other numbers than 32-bit floats"),
        ("@/damaged.onnx", {}, "ONNX Runtime cannot load it"),
        ("@/damaged.tflite", {}, "TensorFlow Lite cannot load it"),
        ("@/more/model.onnx", {}, "gives 3 outputs, its run has 1 classes"),
    ],
)
def test_what_is_no_classifier_is_said(name: str, options: dict[str, Any], reason: str, wrong: Path) -> None:
    given = {
        key: value.replace("@", str(wrong)) if key == "pretrained" else value
        for key, value in options.items()
    }
    with pytest.raises(InputError, match=reason):
        classifier(name.replace("@", str(wrong)), **given)
