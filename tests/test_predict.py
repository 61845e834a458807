"""Predictions: preparation as in training, names of classes, bad pictures named and left out."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from efficientformer import PRESETS, create_model, fold, load_checkpoint, save_model, to_layout
from efficientformer.cli import main
from efficientformer.data.batches import cached_side, evaluation_batches
from efficientformer.data.images import decode
from efficientformer.model.layouts import LAYOUTS, Layout
from efficientformer.predict import predictor
from tests.conftest import picture
from tests.strategies import randomise, randomised, tiny

CLASSES = ["apple", "bear", "car"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves, as far as predictions need it."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder / "model.safetensors", randomised(tiny()))
    about = {"preprocessing": {"resize": cached_side(32), "crop": 32}, "classes": CLASSES}
    (folder / "summary.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Pictures of several modes and shapes."""
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    modes = {"a.png": "RGB", "b.jpg": "L", "c.jpg": "CMYK", "d.png": "RGBA", "e.png": "P", "f.png": "1"}
    for name, mode in modes.items():
        Image.fromarray(noise).convert(mode).save(tmp_path / name)
    return [tmp_path / name for name in modes]


def test_a_run_prepares_pictures_as_its_evaluation_did(
    run: Path, pictures: list[Path], tmp_path: Path
) -> None:
    images = decode([(path, 0) for path in pictures], cached_side(32), tmp_path / "cache")
    (x, _), *_ = evaluation_batches(images, 32)
    with torch.no_grad():
        wanted = fold(randomised(tiny()))(x).softmax(-1)
    for prediction, probabilities in zip(predictor(str(run)).predict(pictures), wanted, strict=True):
        best = probabilities.argsort(descending=True).tolist()
        assert [guess.index for guess in prediction.guesses] == best
        assert [guess.name for guess in prediction.guesses] == [CLASSES[index] for index in best]
        given = [guess.probability for guess in prediction.guesses]
        assert np.allclose(given, probabilities[best], atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_preset_predicts_what_timm_does(layout: Layout, pictures: list[Path], tmp_path: Path) -> None:
    theirs = timm.create_model("efficientformer_l1").eval()
    randomise(theirs)
    ours, path = create_model("efficientformer_l1"), tmp_path / "l1.pth"
    load_checkpoint(ours, theirs.state_dict())
    tensors = to_layout(ours, layout)
    torch.save({"model": tensors} if layout == "official" else tensors, path)
    prepare, info = create_transform(**resolve_model_data_config(theirs)), ImageNetInfo("imagenet-1k")
    (prediction,) = predictor("efficientformer_l1", str(path)).predict(pictures[:1])
    with torch.no_grad():
        wanted = theirs(prepare(Image.open(pictures[0]).convert("RGB"))[None])[0].softmax(-1).topk(5)
    assert [guess.index for guess in prediction.guesses] == wanted.indices.tolist()
    assert np.allclose([guess.probability for guess in prediction.guesses], wanted.values, atol=1e-5)
    assert prediction.guesses[0].name == info.index_to_description(prediction.guesses[0].index)


def test_a_saved_network_has_numbered_classes_and_takes_another_size(
    pictures: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, randomised(tiny()))
    for size in (None, 64):
        (prediction,) = predictor(str(path), input_size=size).predict(pictures[:1], top=2)
        assert [guess.name for guess in prediction.guesses] == [
            f"class {g.index}" for g in prediction.guesses
        ]
        assert len(prediction.guesses) == 2


def bomb(path: Path) -> None:
    """A picture of 200 million pixels in a few kilobytes."""
    Image.new("1", (20_000, 10_000)).save(path)


BAD = {
    "empty.jpg": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("buy milk"),
    "half.png": lambda path: path.write_bytes(_png()[: len(_png()) // 2]),
    "bomb.png": bomb,
    "folder.png": lambda path: path.mkdir(),
    "nowhere.png": lambda path: path.symlink_to("gone"),
}


def _png() -> bytes:
    buffer = io.BytesIO()
    picture(0, 0).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named_and_the_others_are_predicted(
    name: str, run: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = run.parent / name
    BAD[name](bad)
    code = main(["predict", str(pictures[0]), str(bad), str(pictures[1]), "--model", str(run), "--json"])
    printed = capsys.readouterr()
    documents = json.loads(printed.out)
    assert code == 2
    assert [bool(one["error"]) for one in documents] == [False, True, False]
    assert [len(one["guesses"]) for one in documents] == [3, 0, 3]
    assert printed.err.startswith(f"efficientformer: 1 of 3 pictures left out; {bad}: ")
    assert printed.err.count("\n") == 1


def test_the_table_names_pictures_classes_and_probabilities(
    run: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(pictures[0]), "--model", str(run), "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert pictures[0].name in printed
    assert sum(name in printed for name in CLASSES) == 1
    assert "%" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "run"], "name at least one picture"),
        (["a.png", "--model", "efficientformer_l1"], "has no weights of its own: give --pretrained FILE"),
        (["a.png", "--model", "run", "--pretrained", "x.pth"], "run has its own weights"),
        (["a.png", "--model", "run", "--input-size", "64"], "was trained at 32 pixels"),
        (["a.png", "--model", "run", "--top", "0"], "name at least one class"),
        (["a.png", "--model", "nothing"], "model 'nothing' is not known"),
        (["a.png", "--model", "."], "holds no finished run"),
        (["a.png", "--model", "a.png"], "a.png"),
        (["a.png", "--model", "efficientformer_l1", "--pretrained", "no.pth"], "no.pth: no such file"),
        (["a.png", "--model", "bare.safetensors"], "gives features, not classes"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    arguments: list[str],
    message: str,
    run: Path,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run.parent)
    save_model("bare.safetensors", randomised(dataclasses.replace(tiny(), num_classes=0)))
    assert main(["predict", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_hub_is_asked_only_if_told(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []
    network = randomised(PRESETS["efficientformerv2_s0"])
    path = tmp_path / "model.safetensors"
    save_model(path, network)

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (prediction,) = predictor("efficientformerv2_s0", "hub").predict(pictures[:1])
    assert asked == [("timm/efficientformerv2_s0.snap_dist_in1k", "model.safetensors")]
    assert len(prediction.guesses) == 5
