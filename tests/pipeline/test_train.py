"""A training end to end on pictures whose colour is their class: what it leaves, and what takes that up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from efficientformer import InputError, load_model
from efficientformer.architecture import Architecture
from efficientformer.evaluation.classifier import classifier
from efficientformer.files import read_json, write_json
from efficientformer.model.checkpoint import save_model
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.student import student
from efficientformer.pipeline.train import train
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.predict import predictor
from efficientformer.progress import Progress
from efficientformer.training.logs import read_log
from efficientformer.training.recipe import Recipe
from tests.conftest import MakeImages
from tests.strategies import randomised, tiny

QUIET = Progress(None)
RECIPE = Recipe(epochs=3, input_size=32, batch_size=8, learning_rate=1e-2, ema=0.9)
CLASSES = {"blue": 20, "green": 20, "red": 20}


@pytest.fixture
def photos(make_images: MakeImages) -> Path:
    return make_images(CLASSES)


@pytest.fixture
def description(tmp_path: Path) -> str:
    write_json(tmp_path / "tiny.json", tiny().to_json())
    return str(tmp_path / "tiny.json")


def job(model: str, data: Path, recipe: Recipe = RECIPE, **options: Any) -> TrainJob:
    return TrainJob(model, data, recipe, logs=(), workers=0, device="cpu", **options)


@pytest.mark.parametrize("keep", ["held", "stream"])
def test_a_training_leaves_a_network_that_predicts(
    keep: Any, photos: Path, description: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    summary = train(job(description, photos, keep=keep), out, QUIET)
    assert summary["images"] == 12  # a fifth of each class
    assert summary["top1"] > 0.7
    assert summary["accuracy"]["weights"]["top1"] == summary["top1"]
    assert summary["accuracy"].keys() == {"weights", "average"}
    assert read_json(out / "summary.json") == json.loads(json.dumps(summary))
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "architecture.json",
        "average.safetensors",
        "job.json",
        "log.jsonl",
        "model.safetensors",
        "recipe.json",
        "summary.json",
    ]
    picture = next((photos / "green").iterdir())
    (prediction,) = predictor(str(out)).predict([picture], top=3)
    assert {guess.name for guess in prediction.guesses} == set(CLASSES)
    with classifier(str(out)) as same:
        assert same.protocol.to_json() == summary["preprocessing"]
        assert same.classes == ("blue", "green", "red")


def test_the_log_has_a_line_an_epoch(photos: Path, description: str, tmp_path: Path) -> None:
    summary = train(job(description, photos), tmp_path / "run", QUIET)
    epochs = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert epochs[-1]["weights/top1"] == summary["top1"]
    assert epochs[-1]["images"] == summary["images"]


def test_the_summarys_accuracy_is_that_of_the_saved_weights(
    photos: Path, description: str, tmp_path: Path
) -> None:
    from efficientformer.data.sources import open_parts

    summary = train(job(description, photos), tmp_path / "run", QUIET)
    part, right = open_parts(photos, RECIPE.seed).val, 0
    found = predictor(str(tmp_path / "run"))
    for index, label in enumerate(part.labels):
        (prediction,) = found.predict([Path(part.name(index))], top=1)
        right += prediction.guesses[0].index == label
    assert right / len(part) == summary["top1"]


def test_a_finished_training_is_not_repeated(photos: Path, description: str, tmp_path: Path) -> None:
    first = train(job(description, photos), tmp_path / "run", QUIET)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert train(job(description, photos), tmp_path / "run", QUIET) == json.loads(json.dumps(first))
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_another_training_in_the_same_folder_is_refused(
    photos: Path, description: str, tmp_path: Path
) -> None:
    train(job(description, photos), tmp_path / "run", QUIET)
    other = dataclasses.replace(RECIPE, epochs=4)
    with pytest.raises(InputError, match=r"holds a run with recipe\.epochs 3, not 4; give another --out"):
        train(job(description, photos, other), tmp_path / "run", QUIET)


def test_unreadable_files_are_named_and_counted(photos: Path, description: str, tmp_path: Path) -> None:
    (photos / "red" / "00.png").write_bytes(b"no picture")
    summary = train(job(description, photos), tmp_path / "run", QUIET)
    assert len(summary["data"]["unreadable"]) == 1
    assert "red/00.png" in summary["data"]["unreadable"][0]
    with pytest.raises(InputError, match="1 of 60 images are unreadable"):
        train(job(description, photos, max_unreadable=0.01), tmp_path / "strict", QUIET)


# Teachers


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_run_teaches_another(kind: Any, photos: Path, description: str, tmp_path: Path) -> None:
    train(job(description, photos), tmp_path / "teacher", QUIET)
    recipe = dataclasses.replace(RECIPE, distillation=kind, epochs=1)
    summary = train(
        job(description, photos, recipe, teacher=str(tmp_path / "teacher")), tmp_path / "pupil", QUIET
    )
    assert summary["teacher"] == str(tmp_path / "teacher")
    pupil = load_model(tmp_path / "pupil" / "model.safetensors")
    first, second = pupil.head.classifiers()
    assert not torch.equal(first.weight, second.weight)


def test_only_hard_labels_reach_the_second_classifier(photos: Path, description: str, tmp_path: Path) -> None:
    """All of the loss is the teacher's: the first classifier learns nothing but its weight decay."""
    train(job(description, photos), tmp_path / "teacher", QUIET)
    recipe = dataclasses.replace(
        RECIPE, distillation="hard", distillation_share=1.0, weight_decay=0.0, epochs=1
    )
    begun = student(description, 3, recipe).network
    train(job(description, photos, recipe, teacher=str(tmp_path / "teacher")), tmp_path / "pupil", QUIET)
    ended = load_model(tmp_path / "pupil" / "model.safetensors")
    assert torch.equal(begun.head.classifier.weight, ended.head.classifier.weight)  # ty: ignore
    assert not torch.equal(begun.head.distillation.weight, ended.head.distillation.weight)  # ty: ignore


@pytest.mark.parametrize(
    ("changes", "teacher", "message"),
    [
        ({"distillation": "hard"}, None, "there is no --teacher; give one, or --distillation none"),
        ({}, "x", "--teacher without distillation"),
    ],
)
def test_a_teacher_and_distillation_belong_together(
    changes: dict[str, Any], teacher: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        job("efficientformer_l1", tmp_path, dataclasses.replace(RECIPE, **changes), teacher=teacher)


# Where a network begins


def test_a_fresh_network_follows_from_the_seed() -> None:
    def stem(seed: int) -> torch.Tensor:
        recipe = dataclasses.replace(RECIPE, seed=seed)
        return next(iter(student("efficientformerv2_s0", 5, recipe).network.parameters()))

    assert torch.equal(stem(1), stem(1))
    assert not torch.equal(stem(1), stem(2))


def test_a_run_goes_on_with_other_classes(photos: Path, description: str, tmp_path: Path) -> None:
    train(job(description, photos), tmp_path / "run", QUIET)
    found = student(str(tmp_path / "run"), 7, RECIPE)
    trained = load_model(tmp_path / "run" / "model.safetensors")
    assert isinstance(found.network, EfficientFormer)
    assert found.pretrained
    assert found.network.num_classes == 7
    ours, theirs = found.network.state_dict(), trained.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("head."))


def test_a_run_goes_on_at_another_size(tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", randomised(tiny()))
    recipe = dataclasses.replace(RECIPE, input_size=64)
    network = student(str(tmp_path / "net.safetensors"), 3, recipe).network
    assert isinstance(network, EfficientFormer)
    assert network.architecture.input_size == (64, 64)
    assert network(torch.zeros(2, 3, 64, 64))[0].shape == (2, 3)


def test_layer_scale_begins_where_the_recipe_says(description: str) -> None:
    network = student(description, 3, dataclasses.replace(RECIPE, layer_scale=0.25)).network
    gammas = [tensor for name, tensor in network.named_parameters() if name.endswith("gamma")]
    assert gammas
    assert all(bool((gamma == 0.25).all()) for gamma in gammas)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("name", ["efficientformerv2_s0", "timm/resnet10t"])
def test_dropped_paths_reach_the_network(name: str, rate: float) -> None:
    network = student(name, 3, dataclasses.replace(RECIPE, drop_path=rate)).network
    assert any(type(module).__name__ == "DropPath" for module in network.modules()) == bool(rate)


def test_a_peer_learns_and_is_known_again(photos: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1)
    summary = train(job("timm/mobilenetv2_035", photos, recipe), tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "architecture.json").exists()
    with classifier(str(tmp_path / "run")) as found:
        assert (found.kind, found.outputs) == ("timm", 3)
    further = student(
        "timm/mobilenetv2_035", 5, recipe, pretrained=str(tmp_path / "run" / "model.safetensors")
    )
    assert further.network.get_classifier().weight.shape[0] == 5  # ty: ignore
    again = train(job(str(tmp_path / "run"), photos, recipe), tmp_path / "again", QUIET)
    assert (again["model"], again["begun_from"]) == ("timm/mobilenetv2_035", str(tmp_path / "run"))
    assert summary["params"] > 0


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("efficientformer_l9", None, "is not known"),
        ("timm/nonsense", None, "timm has no model 'nonsense'"),
        ("nowhere.json", None, "nowhere.json: holds no architecture.json|no such"),
        ("nowhere.safetensors", None, "is not known"),
    ],
)
def test_a_network_that_is_not_there_is_refused(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        student(name, 3, RECIPE, pretrained)


def test_weights_of_another_peer_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", randomised(tiny()))
    with pytest.raises(InputError, match="does not hold the weights of timm/resnet10t"):
        student("timm/resnet10t", 3, RECIPE, str(tmp_path / "net.safetensors"))


def test_an_architecture_keeps_all_but_its_classes_and_size(description: str) -> None:
    network = student(description, 9, RECIPE).network
    assert isinstance(network, EfficientFormer)
    expected = dataclasses.replace(Architecture.from_json(tiny().to_json()), num_classes=9)
    assert network.architecture == expected
