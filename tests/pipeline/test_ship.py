"""A network as files for several runtimes: names, pictures, failures; one file for real."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from efficientformer import PRESETS, EfficientFormer, InputError, create_model, save_model
from efficientformer.data.batches import cached_side
from efficientformer.latency.artefact import Artefact, ExportMismatchError
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.model.pretrained import create_transform
from efficientformer.pipeline import ship as module
from efficientformer.pipeline.ship import Model, Shipped, model_to_ship, pictures, ship
from efficientformer.predict import predictor
from efficientformer.progress import Progress
from efficientformer.runtimes import RUNTIMES
from tests.conftest import MakeImages, picture
from tests.pipeline import simulated
from tests.strategies import randomised, tiny

QUIET = Progress(None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves, as far as exports need it."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder / "model.safetensors", randomised(tiny()))
    (folder / "architecture.json").write_text(json.dumps(tiny().to_json()))
    about = {"preprocessing": {"resize": cached_side(32), "crop": 32}, "classes": ["a", "b", "c"]}
    (folder / "summary.json").write_text(json.dumps(about))
    return folder


def small_model(**changes: Any) -> Model:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    made = Model("small", network, (3, 8, 8), lambda image: torch.zeros(3, 8, 8), True)
    return dataclasses.replace(made, **changes)


# What a name stands for


def test_a_run_keeps_its_weights_and_its_way_of_preparing_pictures(run: Path) -> None:
    for name in (run, run / "model.safetensors"):
        model = model_to_ship(str(name))
        assert (model.name, model.trained, model.image) == (name.stem, True, (3, 32, 32))
        mine = model.network.state_dict()
        assert all(torch.equal(tensor, mine[key]) for key, tensor in randomised(tiny()).state_dict().items())
        assert torch.equal(model.prepare(picture(0, 0)), predictor(str(run)).prepare(picture(0, 0)))


def test_a_preset_without_weights_has_random_ones() -> None:
    model = model_to_ship("efficientformer_l1", input_size=64)
    assert (model.name, model.trained, model.image) == ("efficientformer_l1", False, (3, 64, 64))
    assert isinstance(model.network, EfficientFormer)
    assert model.network.architecture == dataclasses.replace(
        PRESETS["efficientformer_l1"], input_size=(64, 64)
    )
    assert model.prepare(picture(0, 0)).shape == (3, 64, 64)


def test_an_architecture_has_random_weights(run: Path) -> None:
    model = model_to_ship(str(run / "architecture.json"))
    assert (model.name, model.trained, model.image) == ("architecture", False, (3, 32, 32))
    assert not model.network.training


def test_a_preset_with_weights_is_what_predict_would_use(tmp_path: Path) -> None:
    network, path = create_model("efficientformerv2_s0"), tmp_path / "s0.safetensors"
    save_model(path, network)
    model = model_to_ship("efficientformerv2_s0", str(path))
    assert (model.name, model.trained) == ("efficientformerv2_s0", True)
    mine = model.network.state_dict()
    assert all(torch.equal(tensor, mine[key]) for key, tensor in network.state_dict().items())
    given, wanted = model.prepare(picture(0, 0)), create_transform(network)(picture(0, 0))
    assert torch.equal(given, wanted)


def test_a_timm_model_is_shipped_as_it_is_deployed() -> None:
    model = model_to_ship("timm/test_vit2")
    own = timm.get_pretrained_cfg("test_vit2").input_size
    assert (model.name, model.trained, model.image) == ("test_vit2", False, own)
    assert model.prepare(picture(0, 0)).shape == own
    assert model.network(torch.zeros(1, *own)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("nothing", None, "model 'nothing' is not known"),
        ("empty", None, "holds no finished run"),
        ("empty/none.json", None, r"none\.json: holds no architecture\.json"),
        ("timm/nothing-of-this-kind", None, "timm has no model"),
        ("run", "x.pth", "run has its own weights; --pretrained is for presets"),
        ("run/architecture.json", "x.pth", "--pretrained is for presets"),
        ("timm/test_vit2", "none.pth", r"none\.pth: no such file"),
        ("efficientformer_l1", "none.pth", r"none\.pth: no such file"),
    ],
)
def test_what_stands_for_no_network_is_refused(
    name: str, pretrained: str | None, message: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "empty").mkdir()
    monkeypatch.chdir(run.parent)
    with pytest.raises(InputError, match=message) as caught:
        model_to_ship(name, pretrained)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target(), "small.onnx"),
        (Target(threads=2), "small.onnx"),
        (Target(precision="int8"), "small.int8.onnx"),
        (Target("openvino", precision="fp16"), "small.fp16.xml"),
    ],
)
def test_file_names(target: Target, name: str) -> None:
    assert target.file_name(small_model().name) == name


def test_no_two_runtimes_write_the_same_file() -> None:
    names = [Target(name).file_name(small_model().name) for name in RUNTIMES]
    assert len(set(names)) == len(RUNTIMES)


# Pictures


def read(image: Image.Image) -> torch.Tensor:
    return torch.full((1, 2, 2), float(np.asarray(image).mean()))


def test_some_pictures_check_and_others_calibrate(make_images: MakeImages) -> None:
    folder, model = make_images({"cat": 6, "dog": 6}), small_model(prepare=read)
    check, calibration = pictures(folder, model, QUIET)
    assert (len(check), len(calibration)) == (4, 8)
    values = [float(one.mean()) for one in (*check, *calibration)]
    assert len(set(values)) == 12  # none is in both
    again = pictures(folder, model, QUIET)
    assert torch.equal(again[0], check)
    assert torch.equal(again[1], calibration)


def test_of_many_pictures_some_are_taken(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKED", 2)
    monkeypatch.setattr(module, "CALIBRATED", 3)
    check, calibration = pictures(make_images({"cat": 9}), small_model(prepare=read), QUIET)
    assert (len(check), len(calibration)) == (2, 3)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_unreadable_pictures_are_named_and_left_out(
    good: int, make_images: MakeImages, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_images({"cat": good})
    (folder / "cat" / "bad.png").write_bytes(b"was a picture once")
    (folder / "cat" / "notes.txt").write_text("not an image")
    if good == 2:
        check, calibration = pictures(folder, small_model(prepare=read), Progress())
        assert (len(check), len(calibration)) == (1, 1)
        assert "unreadable, left out" in capsys.readouterr().err
    else:
        with pytest.raises(
            InputError, match=f"holds {good} readable pictures; give a folder of at least two"
        ):
            pictures(folder, small_model(prepare=read), QUIET)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder; give one with pictures"):
        pictures(tmp_path / "none", small_model(), QUIET)


# Shipping


PROOF = Artefact("small.onnx", "t", 10, 1.0, 0.0, 1e-4, 4, True, 1.0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Nothing is exported or run: what would be is kept. The precision may say how it fails."""
    kept: list[dict[str, Any]] = []

    def export(network: nn.Module, path: Path, target: Target, images: Any, **options: Any) -> Artefact:
        kept.append({"path": path, "target": target, "images": images, **options})
        if target.precision == "int8":
            raise InputError("no counterpart for Erf")
        if target.precision == "bf16":
            raise ExportMismatchError("differs by 0.5")
        return dataclasses.replace(PROOF, path=path.name)

    def measure_files(files: dict[str, Path], target: Target) -> dict[str, Measurement]:
        kept.append({"measured": list(files.values())})
        return {name: simulated.receipt(name, target, 1.0) for name in files}

    monkeypatch.setattr(module, "export", export)
    monkeypatch.setattr(module, "measure_files", measure_files)
    return kept


def test_what_fails_does_not_stop_the_others(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    targets = [Target(precision="int8"), Target("openvino", precision="bf16"), Target()]
    wrong, broken, fine = ship(small_model(), targets, tmp_path, None, QUIET)
    assert (wrong.error, wrong.broken) == ("no counterpart for Erf", False)
    assert (broken.error, broken.broken) == ("differs by 0.5", True)
    assert (wrong.artefact, wrong.latency, broken.artefact, broken.latency) == (None,) * 4
    assert fine.artefact is not None
    assert fine.latency is not None
    assert (fine.error, fine.untimed, fine.broken) == ("", "", False)
    assert [one["measured"] for one in asked if "measured" in one] == [[tmp_path / "small.onnx"]]
    documents = [one.to_json() for one in (wrong, broken, fine)]
    assert [one["error"] for one in documents] == ["no counterpart for Erf", "differs by 0.5", None]
    assert documents[2]["latency"]["samples"] == 30
    json.dumps(documents)


def test_all_are_exported_before_any_is_timed(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    ship(small_model(), [Target(), Target(threads=2)], tmp_path, None, QUIET)
    assert ["measured" in one for one in asked] == [False, False, True, True]


def test_without_pictures_random_numbers_check_and_nothing_calibrates(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    ship(small_model(), [Target()], tmp_path, None, QUIET)
    assert asked[0]["images"].shape == (4, 3, 8, 8)
    assert (asked[0]["photographs"], asked[0]["calibration"]) == (False, None)


def test_pictures_check_and_calibrate(
    asked: list[dict[str, Any]], tmp_path: Path, make_images: MakeImages
) -> None:
    ship(small_model(prepare=read), [Target()], tmp_path, make_images({"cat": 6}), QUIET)
    assert asked[0]["photographs"] is True
    assert (len(asked[0]["images"]), len(asked[0]["calibration"])) == (2, 4)


def test_what_cannot_run_here_is_exported_and_not_timed(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    (one,) = ship(small_model(), [Target(device="cuda")], tmp_path, None, QUIET)
    assert one.artefact is not None
    assert one.latency is None
    assert "CUDAExecutionProvider" in one.untimed
    assert not any("measured" in one for one in asked)


def test_a_runs_network_for_real(
    run: Path, tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efficientformer.latency.measure import measure_files

    def quickly(files: dict[str, Path], target: Target) -> dict[str, Measurement]:
        return measure_files(files, target, launches=1, rounds=4, seconds=0.05)

    monkeypatch.setattr(module, "measure_files", quickly)
    images = make_images({"cat": 3, "dog": 3})
    one: Shipped
    (one,) = ship(model_to_ship(str(run)), [Target()], tmp_path / "out", images, QUIET)
    assert one.artefact is not None
    assert one.latency is not None
    assert (one.artefact.path, one.artefact.images, one.artefact.photographs) == ("run.onnx", 2, True)
    assert len(one.latency.samples_ms) >= 60
    session = onnxruntime.InferenceSession(tmp_path / "out" / "run.onnx")
    photo = next(images.rglob("*.png"))
    x = predictor(str(run)).prepare(Image.open(photo).convert("RGB"))[None].numpy()
    (prediction,) = predictor(str(run)).predict([photo])
    assert int(session.run(None, {"images": x})[0].argmax()) == prediction.guesses[0].index
