"""Networks scored by name: against predictions one by one, after export, among some of their classes."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efficientformer import fold, load_model, save_model
from efficientformer.data.batches import cached_side
from efficientformer.errors import InputError
from efficientformer.evaluation import run as evaluation
from efficientformer.evaluation.pictures import open_pictures
from efficientformer.evaluation.protocol import Protocol
from efficientformer.evaluation.result import FORMAT, against_first
from efficientformer.evaluation.run import Request, evaluate_named, evaluate_several
from efficientformer.latency.artefact import export
from efficientformer.latency.target import Target
from efficientformer.predict import predictor
from efficientformer.progress import Progress
from tests.conftest import MakeImages
from tests.strategies import randomised, tiny

CLASSES = ["apple", "bear", "car"]
MOBILENET = Path(__file__).parents[3] / "shared" / "data" / "mobilenet-v2-imagenet.tflite"
ALONE = Request(workers=0, batch_size=7)


@pytest.fixture
def data(make_images: MakeImages) -> Path:
    """Pictures in two parts; those of validation are other ones than the training's, and not square."""
    make_images(dict.fromkeys(CLASSES, 4), "data/train")
    for path in make_images({"apple": 9, "bear": 5, "car": 8}, "data/val", side=60).rglob("*.png"):
        Image.open(path).crop((0, 0, 60, 40)).save(path)
    return make_images({}, "data")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves, as far as its accuracy needs it."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder / "model.safetensors", randomised(tiny(), seed=5))
    about = {"preprocessing": {"resize": cached_side(32), "crop": 32}, "classes": CLASSES}
    (folder / "summary.json").write_text(json.dumps(about))
    return folder


def prepared(pictures: list[Path], protocol: Protocol) -> torch.Tensor:
    return torch.stack([protocol.prepare(Image.open(path)) for path in pictures])


def test_a_runs_accuracy_is_that_of_its_predictions(run: Path, data: Path) -> None:
    found = evaluate_named(str(run), data, workers=0, batch_size=7)
    paths = sorted((data / "val").rglob("*.png"))
    guesses = [one.guesses[0].name for one in predictor(str(run)).predict(paths)]
    right = [guess == path.parent.name for guess, path in zip(guesses, paths, strict=True)]
    assert 0 < sum(right) < len(right)  # else the order of the classes would not show
    assert found.accuracy.score.top1 == pytest.approx(np.mean(right))
    assert found.accuracy.score.images == 22
    assert [CLASSES[guess] for guess in found.guesses] == guesses
    assert found.accuracy.confusion.sum(1).tolist() == [9, 5, 8]
    assert found.protocol.name == "run"
    assert found.top1_all_outputs is None


def test_workers_change_nothing(run: Path, data: Path) -> None:
    alone = evaluate_named(str(run), data, workers=0, batch_size=22)
    found = evaluate_named(str(run), data, workers=2, batch_size=4)
    assert np.array_equal(found.guesses, alone.guesses)
    assert np.array_equal(found.labels, alone.labels)
    assert found.accuracy.score.loss == pytest.approx(alone.accuracy.score.loss)


def test_an_exported_network_is_as_accurate_and_int8_is_held_against_it(run: Path, data: Path) -> None:
    network = load_model(run / "model.safetensors")
    x = prepared(sorted((data / "train").rglob("*.png")), Protocol("x", cached_side(32), 32, square=True))
    export(network, run / "model.onnx", Target(), x, photographs=False)
    target = Target.parse("onnxruntime:precision=int8")
    export(network, run / "model.int8.onnx", target, x, photographs=False, calibration=x)
    names = [str(run), str(run / "model.onnx"), str(run / "model.int8.onnx")]
    plain, exported, int8 = evaluate_several(names, open_pictures(data), ALONE)
    assert (plain.kind, exported.kind, int8.kind) == ("ours", "file", "file")
    assert exported.accuracy.score.top1 == plain.accuracy.score.top1
    assert exported.accuracy.score.loss == pytest.approx(plain.accuracy.score.loss, rel=1e-4)
    same, quantised = against_first([plain, exported, int8])
    assert (same.agreement, same.difference, same.lost, same.won) == (1.0, 0.0, 0, 0)
    assert quantised.reference == str(run)
    assert quantised.agreement == np.mean(int8.guesses == plain.guesses)
    difference = int8.accuracy.score.top1 - plain.accuracy.score.top1
    assert quantised.difference == pytest.approx(difference)
    assert int8.accuracy.score.loss != pytest.approx(plain.accuracy.score.loss, rel=1e-4)  # it was quantised


def test_of_imagenets_outputs_only_the_data_sets_classes_are_answers(
    make_images: MakeImages, tmp_path: Path
) -> None:
    wnids = {"n01440764_tench": 6, "n03888257_parachute": 8, "n02102040": 7}
    for part in ("train", "val"):
        make_images(wnids, f"nette/{part}", side=48)
    network = randomised(tiny(num_classes=1000), seed=1)
    save_model(tmp_path / "model.safetensors", network)
    found = evaluate_named(str(tmp_path / "model.safetensors"), tmp_path / "nette", workers=0)
    outputs, labels = [0, 217, 701], [0] * 6 + [1] * 7 + [2] * 8  # ImageNet's, by WordNet id
    paths = sorted((tmp_path / "nette" / "val").rglob("*.png"))
    with torch.no_grad():
        logits = fold(network)(prepared(paths, found.protocol))
    wanted = logits[:, outputs].argmax(1).numpy()
    assert np.array_equal(found.guesses, wanted)
    assert found.labels.tolist() == labels
    everywhere = np.mean(logits.argmax(1).numpy() == np.array(outputs)[labels])
    assert found.top1_all_outputs == everywhere < found.accuracy.score.top1


def test_networks_prepared_alike_share_one_pass(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Protocol] = []
    one_pass = evaluation._one_pass
    monkeypatch.setattr(
        evaluation, "_one_pass", lambda rows, *rest: passes.append(rows[0].protocol) or one_pass(rows, *rest)
    )
    save_model(run.parent / "other.safetensors", randomised(tiny(), seed=2))
    save_model(run.parent / "third.safetensors", randomised(tiny(), seed=3))
    names = [str(run), str(run.parent / "other.safetensors"), str(run.parent / "third.safetensors")]
    found = evaluate_several(names, open_pictures(data), ALONE)
    assert [one.name for one in passes] == ["run", "own"]
    assert [one.model for one in found] == names
    for name, one in zip(names, found, strict=True):
        alone = evaluate_named(name, data, workers=0)
        assert np.array_equal(alone.guesses, one.guesses)
    forced = evaluate_several(names, open_pictures(data), Request("40:32:bilinear", workers=0))
    assert len(passes) == 2 + 3 + 1
    assert {one.protocol.name for one in forced} == {"40:32:bilinear"}


def test_a_protocol_is_used_and_kept(run: Path, data: Path) -> None:
    network = fold(load_model(run / "model.safetensors"))
    paths = sorted((data / "val").rglob("*.png"))
    losses = set()
    for text in ("paper", "full", "64:32:bilinear", "run"):
        found = evaluate_named(str(run), data, protocol=text, workers=0)
        with torch.no_grad():
            logits = network(prepared(paths, found.protocol))
        assert np.array_equal(found.guesses, logits.argmax(1).numpy())
        assert found.to_json()["protocol"] == found.protocol.to_json()
        losses.add(round(found.accuracy.score.loss, 6))
    assert len(losses) == 4


@pytest.mark.parametrize("limit", [1, 10, 22, 1000])
def test_a_sample_is_drawn_by_the_seed_with_the_classes_mixed(run: Path, data: Path, limit: int) -> None:
    first, again, other = (open_pictures(data, limit=limit, seed=seed) for seed in (0, 0, 1))
    assert len(first.source) == min(limit, 22)
    names = [[one.source.name(index) for index in range(len(one.source))] for one in (first, again, other)]
    assert names[0] == names[1]
    assert first.of == 22
    if limit < 22:
        assert names[0] != names[2]
        assert first.source.digest() == again.source.digest() != other.source.digest()
    if limit == 10:
        assert set(first.source.labels) == {0, 1, 2}
    (found,) = evaluate_several([str(run)], first, ALONE)
    assert found.accuracy.score.images == min(limit, 22)
    assert found.to_json()["data"]["pictures"] == min(limit, 22)


def test_a_run_is_scored_on_what_it_did_not_learn_from(
    run: Path, make_images: MakeImages, tmp_path: Path
) -> None:
    data = make_images(dict.fromkeys(CLASSES, 30), "one-part")
    about = json.loads((run / "summary.json").read_text())
    other = shutil.copytree(run, tmp_path / "other")
    for folder, seed in ((run, 3), (other, 4)):
        (folder / "summary.json").write_text(json.dumps({**about, "seed": seed}))
    found = open_pictures(data, models=["efficientformer_l1", str(run)])
    assert found.seed == open_pictures(data, models=[str(run / "model.safetensors")]).seed == 3
    assert found.digest == open_pictures(data, seed=3).digest != open_pictures(data, seed=0).digest
    assert open_pictures(data).seed == 0
    assert open_pictures(data, seed=1, models=[str(run), str(other)]).seed == 1
    with pytest.raises(InputError, match=r"set other pictures apart \(seeds 3 and 4\)"):
        open_pictures(data, models=[str(run), str(other)])


def test_runs_of_other_seeds_are_compared_where_validation_is_given(run: Path, data: Path) -> None:
    other = shutil.copytree(run, run.parent / "other")
    about = json.loads((run / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**about, "seed": 4}))
    assert open_pictures(data, models=[str(run), str(other)]).seed == 0


def test_a_bad_picture_is_named_and_left_out(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "val" / "bear" / "05.png").write_bytes(b"no picture")
    whole = evaluate_named(str(run), data, workers=0, progress=Progress())
    assert whole.accuracy.score.images == 22
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "unreadable" in line]
    assert "05.png" in said
    assert whole.to_json()["unreadable"]["count"] == 1
    assert "05.png" in whole.accuracy.unreadable[0]
    with pytest.raises(
        InputError, match=r"1 of 23 images are unreadable, more than --max-unreadable 2%.*05.png"
    ):
        evaluate_several([str(run)], open_pictures(data), Request(workers=0, max_unreadable=0.02))


def test_the_document_has_what_the_figure_depends_on(run: Path, data: Path) -> None:
    found = evaluate_named(str(run), data, workers=0, split="train")
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["format"] == FORMAT == "efficientformer.evaluation/1"
    assert document["images"] == 12
    assert document["data"]["split"] == "train"
    assert document["data"]["digest"] == open_pictures(data, "train").source.digest()
    assert document["classes"] == CLASSES
    assert document["protocol"]["resize"] == cached_side(32)
    assert {"torch", "timm", "pillow"} <= document["versions"].keys()
    assert document["machine"]["processor"]
    assert document["date"].endswith("+00:00")
    assert str(data.parent) not in json.dumps(document["data"])


def test_damaged_weights_are_an_error_that_names_the_network(run: Path, data: Path) -> None:
    network = randomised(tiny())
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_model(run / "model.safetensors", network)
    with pytest.raises(InputError, match=r"run: the network's outputs are not numbers for 22 of 22 images"):
        evaluate_named(str(run), data, workers=0)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"workers": -1}, "--workers -1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"max_unreadable": 2}, "--max-unreadable 2"),
        ({"protocol": "paepr"}, "protocol 'paepr' is not known"),
        ({"protocol": "256:224"}, "crops 224 pixels; the network takes 32"),
        ({"target": Target()}, "is no exported file"),
        ({"pretrained": "x.pth"}, "has its own weights"),
        ({"input_size": 64}, "was trained at 32 pixels"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(
    run: Path, data: Path, request_: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_several([str(run)], open_pictures(data), Request(**request_))  # ty: ignore


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no CUDA device is visible"):
        Request(device="cuda")


def test_a_network_of_other_classes_is_refused_by_name(run: Path, data: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "five.safetensors", randomised(tiny(num_classes=5)))
    with pytest.raises(InputError, match=r"five.safetensors: .*5 outputs"):
        evaluate_several([str(run), str(tmp_path / "five.safetensors")], open_pictures(data), ALONE)


def test_a_runs_protocol_is_for_runs(data: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "three.safetensors", randomised(tiny()))
    with pytest.raises(InputError, match="is no run's"):
        evaluate_named(str(tmp_path / "three.safetensors"), data, protocol="run")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not MOBILENET.is_file(), reason=f"the photographs are not here: {MOBILENET.name}")
def test_a_published_file_is_as_accurate_as_its_publisher_says(tmp_path: Path) -> None:
    with zipfile.ZipFile(MOBILENET.with_name("imagenet-1k-sample.zip")) as archive:
        archive.extractall(tmp_path / "photos")
    photos = sorted((tmp_path / "photos").rglob("*.jpg"))
    for photo in photos:
        for part in ("train", "val"):
            folder = tmp_path / "data" / part / photo.stem
            folder.mkdir(parents=True)
            (folder / photo.name).symlink_to(photo)
    found = evaluate_named(str(MOBILENET), tmp_path / "data", workers=2)
    assert found.accuracy.score.images == len(photos) == 1000
    assert found.accuracy.score.top1 == pytest.approx(0.86, abs=0.01)
    assert found.top1_all_outputs == found.accuracy.score.top1  # of all 1001, background is never the answer
