"""The named recipes, each with where it is from and what it is known to reach; and how one is changed.

Anything can be overridden by a file or on the command line, by the name of its field: `mixup=0.2`. An unknown
name or a value of the wrong type is an error.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from efficientformer.data.augmentation import Augmentation
from efficientformer.errors import InputError
from efficientformer.training.recipe import Recipe


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with its origin.

    Attributes:
        recipe: the values.
        about: what it is for.
        source: where the values are from.
        expected: what it reached, on how much, by whose measurement; or `unmeasured`.
    """

    recipe: Recipe
    about: str
    source: str
    expected: str


_PAPER_IMAGES = Augmentation(
    min_area=0.08,
    interpolation="bicubic",
    rand_augment="rand-m9-mstd0.5-inc1",
    erase=0.25,
    mixup=0.8,
    cutmix=1.0,
    repeats=3,
)
PAPER = Recipe(
    epochs=300,
    input_size=224,
    batch_size=1024,
    learning_rate=1e-3,
    scale_rate=True,
    warmup_epochs=5,
    warmup_rate=1e-5,
    final_rate=1e-5,
    layer_scale=1e-5,
    ema=0.99996,
    ema_warmup=False,
    sync_norm=True,
    distillation="hard",
    augmentation=_PAPER_IMAGES,
)
RECIPES: dict[str, NamedRecipe] = {
    "paper": NamedRecipe(
        PAPER,
        "ImageNet-1K from scratch, with a teacher",
        "Li et al., NeurIPS 2022, and its public code",
        "EfficientFormer L1 79.2 %, L3 82.4 %, L7 83.3 % of 50,000 (paper; L1 at 3,072 images a step and a "
        "rate of 3e-3, 78.0 % at 1,024 by the authors' issues 17 and 34); unmeasured by us",
    ),
    "paper-1000": NamedRecipe(
        dataclasses.replace(PAPER, epochs=1000),
        "the same for 1,000 epochs",
        "Li et al., NeurIPS 2022, Table 1",
        "EfficientFormer L1 80.2 % of 50,000 (paper); unmeasured by us",
    ),
    "finetune": NamedRecipe(
        Recipe(
            epochs=30,
            input_size=224,
            batch_size=64,
            learning_rate=5e-4,
            scale_rate=True,
            warmup_epochs=2,
            warmup_rate=1e-6,
            final_rate=1e-6,
            weight_decay=1e-4,
            ema=0.999,
            augmentation=Augmentation(
                min_area=0.3, interpolation="bicubic", rand_augment="rand-m6-mstd0.5-inc1", mixup=0.2
            ),
        ),
        "pretrained weights on data of one's own",
        "ours: the paper's recipe with milder augmentation and a rate for weights that are good already",
        "unmeasured",
    ),
    "scratch": NamedRecipe(
        Recipe(
            epochs=80,
            input_size=128,
            batch_size=64,
            learning_rate=2e-3,
            warmup_epochs=5,
            ema=0.999,
            augmentation=Augmentation(rand_augment="rand-m6-mstd0.5-inc1", mixup=0.2, erase=0.1),
        ),
        "thousands of images from scratch",
        "ours: the short recipe for longer, with more augmentation",
        "unmeasured",
    ),
    "short": NamedRecipe(
        Recipe(epochs=20, warmup_epochs=2),
        "a first look, and what slim trains by",
        "ours: crops and flips alone, as short trainings want",
        "EfficientFormer L1 61.5 % (59.9–63.0) of 3,925 after 4 epochs of Imagenette at 128 px from scratch, "
        "by us (benchmarks/results/imagenette_training-4.md)",
    ),
}


def recipe_of(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name or file, changed.

    Args:
        name: one of `RECIPES`, or a `.toml` or `.json` file of fields, `recipe` naming what it starts from.
        changes: values by field, as text or as what the field holds.

    Raises:
        InputError: if the name, a field or a value is not known.
    """
    if name in RECIPES:
        return changed(RECIPES[name].recipe, changes or {})
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        raise InputError(
            f"recipe {name!r} is not known; give one of {', '.join(RECIPES)}, or a .toml or .json file"
        )
    document = _document(path)
    start = document.pop("recipe", "short")
    if start not in RECIPES:
        raise InputError(f"{path}: recipe {start!r} is not known; give one of {', '.join(RECIPES)}")
    try:
        recipe = changed(RECIPES[start].recipe, _flat(document))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return changed(recipe, changes or {})


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with other values in some fields, of the recipe itself or of its augmentation.

    Raises:
        InputError: if a field is not known, or a value is not of its type or range.
    """
    own, augmentation = _fields(Recipe), _fields(Augmentation)
    new: dict[str, Any] = {}
    new_augmentation: dict[str, Any] = {}
    for written, value in changes.items():
        name = written.replace("-", "_").removeprefix("augmentation.")
        if name in own and name != "augmentation":
            new[name] = _typed(name, value, own[name])
        elif name in augmentation:
            new_augmentation[name] = _typed(name, value, augmentation[name])
        else:
            raise _unknown(written, [*own, *augmentation])
    images = dataclasses.replace(recipe.augmentation, **new_augmentation)
    return dataclasses.replace(recipe, **new, augmentation=images)


def _fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: is no {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds no table of fields")
    return document


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    inner = document.get("augmentation", {})
    if not isinstance(inner, Mapping):
        raise InputError("augmentation is a table of fields")
    return {name: value for name, value in document.items() if name != "augmentation"} | dict(inner)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A value, from text where it is one, checked."""
    try:
        if get_origin(kind) is Literal:
            return _one_of(value, get_args(kind))
        if kind is bool:
            return _truth(value)
        if kind is int:
            return _whole(value)
        if kind is float and isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
        if kind is str and isinstance(value, str):
            return value
    except ValueError:
        pass
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    wanted = " or ".join(map(str, get_args(kind))) or words[kind]
    raise InputError(f"{name} is {wanted}, not {value!r}")


def _one_of(value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ValueError
    return value


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[_word(value)]


def _word(value: Any) -> str:
    word = str(value).lower()
    if word not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError
    return word


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _unknown(name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    hint = (
        f"; did you mean {near[0]}?"
        if near
        else f"; known: {', '.join(n for n in known if n != 'augmentation')}"
    )
    return InputError(f"the recipe has no field {name!r}{hint}")
