"""The named recipes against the paper's table, and how they are changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.data.augmentation import Augmentation
from efficientformer.training.recipe import Recipe
from efficientformer.training.recipes import RECIPES, changed, recipe_of

PAPER = RECIPES["paper"].recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 300),
        ("warmup_epochs", 5),
        ("weight_decay", 0.025),
        ("clip", 0.01),
        ("label_smoothing", 0.1),
        ("drop_path", 0),
        ("ema", 0.99996),
        ("sync_norm", True),
        ("distillation", "hard"),
        ("distillation_share", 0.5),
        ("input_size", 224),
        ("layer_scale", 1e-5),
    ],
)
def test_the_papers_recipe(field: str, value: Any) -> None:
    assert getattr(PAPER, field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rand_augment", "rand-m9-mstd0.5-inc1"),
        ("erase", 0.25),
        ("mixup", 0.8),
        ("cutmix", 1.0),
        ("mix_switch", 0.5),
        ("repeats", 3),
        ("interpolation", "bicubic"),
    ],
)
def test_the_papers_augmentation(field: str, value: Any) -> None:
    assert getattr(PAPER.augmentation, field) == value


@pytest.mark.parametrize(("batch", "peak"), [(1024, 1e-3), (3072, 3e-3), (128, 1.25e-4)])
def test_the_papers_rate_is_scaled_to_the_batch(batch: int, peak: float) -> None:
    assert dataclasses.replace(PAPER, batch_size=batch).peak_rate == pytest.approx(peak)


def test_a_rate_that_is_not_scaled() -> None:
    assert Recipe(epochs=1, batch_size=7, learning_rate=2e-3).peak_rate == 2e-3


def test_the_long_one_differs_in_epochs_alone() -> None:
    assert RECIPES["paper-1000"].recipe == dataclasses.replace(PAPER, epochs=1000)


@pytest.mark.parametrize("name", RECIPES)
def test_each_says_where_it_is_from_and_what_it_reaches(name: str) -> None:
    one = RECIPES[name]
    assert one.about
    assert one.source
    assert "unmeasured" in one.expected or "benchmarks/results/" in one.expected
    assert recipe_of(name) == one.recipe


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"epochs": "5"}, "epochs", 5),
        ({"learning-rate": "1e-2"}, "learning_rate", 0.01),
        ({"learning_rate": 1}, "learning_rate", 1.0),
        ({"sync_norm": "false"}, "sync_norm", False),
        ({"compile": True}, "compile", True),
        ({"precision": "bf16"}, "precision", "bf16"),
        ({"distillation": "none"}, "distillation", "none"),
        ({"batch_size": 64.0}, "batch_size", 64),
    ],
)
def test_a_field_is_changed(changes: dict[str, Any], field: str, value: Any) -> None:
    new = changed(PAPER, changes)
    assert getattr(new, field) == value
    assert type(getattr(new, field)) is type(value)
    assert dataclasses.replace(new, **{field: getattr(PAPER, field)}) == PAPER


@pytest.mark.parametrize("name", ["mixup", "augmentation.mixup"])
def test_a_field_of_the_augmentation_is_changed(name: str) -> None:
    new = changed(PAPER, {name: "0.2"})
    assert new.augmentation == dataclasses.replace(PAPER.augmentation, mixup=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eppochs": "5"}, "no field 'eppochs'; did you mean epochs"),
        ({"zzz": "5"}, "no field 'zzz'; known: epochs, "),
        ({"epochs": "five"}, "epochs is a whole number, not 'five'"),
        ({"epochs": "2.5"}, "epochs is a whole number, not '2.5'"),
        ({"epochs": 2.5}, "epochs is a whole number, not 2.5"),
        ({"epochs": True}, "epochs is a whole number, not True"),
        ({"epochs": "0"}, "epochs must be at least 1, not 0"),
        ({"clip": "-1"}, "clip must be at least 0, not -1"),
        ({"clip": "nan"}, "clip must be at least 0, not nan"),
        ({"compile": "maybe"}, "compile is true or false, not 'maybe'"),
        ({"precision": "fp8"}, "precision is fp32 or bf16 or fp16, not 'fp8'"),
        ({"erase": "1.5"}, "erase is a share between 0 and 1, not 1.5"),
        ({"learning_rate": "0"}, "learning_rate must be above zero, not 0"),
        ({"augmentation": "x"}, "no field 'augmentation'"),
        ({"repeats": "0"}, "repeats must be at least 1, not 0"),
        ({"input_size": "33"}, "input_size must be a multiple of 32"),
        ({"rand_augment": 3}, "rand_augment is text, not 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        changed(PAPER, changes)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match=r"recipe 'papr' is not known; give one of paper, .*\.json"):
        recipe_of("papr")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'recipe = "paper"\nepochs = 7\n[augmentation]\nmixup = 0.1\n'),
        ("a.json", '{"recipe": "paper", "epochs": 7, "augmentation": {"mixup": 0.1}}'),
        ("flat.toml", 'recipe = "paper"\nepochs = 7\nmixup = 0.1\n'),
    ],
)
def test_a_recipe_from_a_file_and_a_change_on_top(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    expected = changed(PAPER, {"epochs": 7, "mixup": 0.1, "clip": 0})
    assert recipe_of(str(tmp_path / name), {"clip": "0"}) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "epochs = ", "is no TOML"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[1]", "holds no table"),
        ("a.toml", "eppochs = 3", "no field 'eppochs'"),
        ("a.toml", 'recipe = "x"', "recipe 'x' is not known"),
        ("a.toml", "augmentation = 3", "augmentation is a table"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        recipe_of(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        recipe_of(str(tmp_path / "none.toml"))


recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 999),
    learning_rate=st.floats(1e-6, 1),
    compile=st.booleans(),
    precision=st.sampled_from(["fp32", "bf16", "fp16"]),
    augmentation=st.builds(Augmentation, mixup=st.floats(0, 1), flip=st.booleans()),
)


@given(recipes)
def test_a_stored_recipe_is_read_back(recipe: Recipe) -> None:
    document = json.loads(json.dumps(recipe.to_json()))
    flat = {**document, **document.pop("augmentation")}
    flat.pop("augmentation", None)
    assert changed(Recipe(epochs=1), flat) == recipe
