"""`train` and `recipes` on the command line."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from efficientformer.cli import main
from efficientformer.files import read_json, write_json
from efficientformer.training.recipes import RECIPES
from tests.conftest import MakeImages
from tests.strategies import tiny

Train = Callable[..., int]


@pytest.fixture
def train(make_images: MakeImages, tmp_path: Path) -> Train:
    """Runs `train` on 60 pictures for an epoch; `train("--epochs", "3", …)` changes or adds options."""
    photos = make_images({"blue": 20, "green": 20, "red": 20})
    write_json(tmp_path / "tiny.json", tiny().to_json())
    usual = {"--data": str(photos), "--out": str(tmp_path / "run"), "--epochs": "1", "--input-size": "32"}
    usual |= {"--batch-size": "8", "--device": "cpu"}

    def run(*more: str) -> int:
        flags = [word for word in more if word == "--json"]
        pairs = [word for word in more if word != "--json"]
        options = usual | dict(zip(pairs[::2], pairs[1::2], strict=True))
        return main(["train", str(tmp_path / "tiny.json"), *itertools.chain(*options.items()), *flags])

    return run


def test_a_training_prints_its_accuracy_with_interval_and_images(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    told = capsys.readouterr()
    assert "model.safetensors" in told.out
    (row,) = [line.split() for line in told.out.splitlines() if line.strip().startswith("model.")]
    assert row[4] == "12"  # images: a fifth of each class
    assert "epoch 1/1: top-1 weights" in told.err
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_options_change_the_recipe_and_the_run_keeps_all_of_it(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--recipe", "paper", "--distillation", "none", "--mixup", "0.3", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    recipe = read_json(tmp_path / "run" / "recipe.json")
    assert document["recipe"] == recipe
    assert (recipe["augmentation"]["mixup"], recipe["epochs"], recipe["ema"]) == (0.3, 1, 0.99996)


def test_a_teacher_that_is_given_is_used(train: Train, tmp_path: Path, capsys: Any) -> None:
    assert train() == 0
    capsys.readouterr()
    assert train("--out", str(tmp_path / "pupil"), "--teacher", str(tmp_path / "run"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["distillation"] == "hard"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--eppochs", "3"], "the recipe has no field 'eppochs'; did you mean epochs?"),
        (["--epochs", "0"], "epochs must be at least 1, not 0"),
        (["--recipe", "papre"], "recipe 'papre' is not known; give one of paper"),
        (["--recipe", "paper"], "there is no --teacher; give one, or --distillation none"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--device", "tpu"], "--device tpu: give cpu, cuda or auto"),
        (["--tracker", "paper"], "--tracker paper: is not known"),
        (["--teacher", "timm/resnet18"], "timm/resnet18 has no weights of its own"),
        (["--workers", "-1"], "workers must be at least 0, not -1"),
        (["--max-unreadable", "2"], "max_unreadable is a share between 0 and 1, not 2"),
    ],
)
def test_bad_input_is_one_line_and_2(
    more: list[str], message: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*more) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("efficientformer: ")
    assert message in last
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_refused_training_leaves_the_folder_free(train: Train, tmp_path: Path) -> None:
    assert train("--teacher", "timm/resnet18") == 2
    (tmp_path / "images" / "red" / "00.png").write_bytes(b"no picture")
    assert train("--max-unreadable", "0.01") == 2
    assert train() == 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_recipes_are_listed_with_source_and_expectation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == RECIPES.keys()
    assert document["paper"]["recipe"]["epochs"] == 300
    assert main(["recipes"]) == 0
    assert "unmeasured" in capsys.readouterr().out


def test_help_names_the_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "efficientformer.cli", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--teacher" in done.stdout
    assert "--epochs" in done.stdout
