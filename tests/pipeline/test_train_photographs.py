"""Photographs, a quantised teacher from somebody else, and fine-tuning with it: the whole way, briefly."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
import torch

from efficientformer import load_model
from efficientformer.files import write_json
from efficientformer.pipeline.train import train
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.progress import Progress
from efficientformer.training.recipe import Recipe
from tests.strategies import tiny

DATA = Path(__file__).parents[3] / "shared" / "data"
TEACHER, NETTE = DATA / "mobilenet-v2-imagenet.tflite", DATA / "imagenette-160.zip"
CLASSES = ("n01440764", "n02102040", "n02979186")
RECIPE = Recipe(epochs=3, input_size=64, batch_size=24, learning_rate=5e-3, distillation="hard")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not (TEACHER.is_file() and NETTE.is_file()),
        reason=f"the photographs or the teacher are not here: {NETTE.name}, {TEACHER.name}",
    ),
]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Of each of three classes, 40 photographs to learn from and 20 to be judged on."""
    with zipfile.ZipFile(NETTE) as packed:
        for part, count in (("train", 40), ("val", 20)):
            for name in CLASSES:
                inside = sorted(one for one in packed.namelist() if f"{part}/{name}/" in one)
                for one in [one for one in inside if not one.endswith("/")][:count]:
                    path = tmp_path / "photographs" / part / name / Path(one).name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(packed.read(one))
    return tmp_path / "photographs"


def test_a_foreign_teacher_teaches_a_network_that_begins_and_one_that_goes_on(
    photographs: Path, tmp_path: Path
) -> None:
    architecture = dataclasses.replace(tiny(), input_size=(64, 64))
    write_json(tmp_path / "tiny.json", architecture.to_json())
    begun = TrainJob(
        str(tmp_path / "tiny.json"), photographs, RECIPE, teacher=str(TEACHER), device="cpu", logs=()
    )
    first = train(begun, tmp_path / "first", Progress(None))
    assert (first["images"], first["teacher"]) == (60, str(TEACHER))
    further = dataclasses.replace(begun, model=str(tmp_path / "first"))
    second = train(further, tmp_path / "second", Progress(None))
    assert second["accuracy"]["weights"]["loss"] < first["accuracy"]["weights"]["loss"]
    before, after = (load_model(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    heads = [network.head.classifiers()[1].weight for network in (before, after)]
    assert not torch.equal(*heads)
