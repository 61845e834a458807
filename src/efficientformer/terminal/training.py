"""Tables of a training and of the recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from efficientformer.terminal.table import table
from efficientformer.training.recipes import NamedRecipe


def trained_table(summary: Mapping[str, Any]) -> Table:
    """A training's end: accuracy with interval and images, of the weights and of their moving average."""
    recipe = summary["recipe"]
    title = f"{summary['model']} · {recipe['epochs']} epochs at {recipe['input_size']} px · {summary['date']}"
    made = table(title, ("", "top-1", "95 % interval", "top-5", "images", "loss", "params"))
    names = {"weights": "model.safetensors", "average": "average.safetensors"}
    for name, one in summary["accuracy"].items():
        low, high = one["interval"]
        made.add_row(
            names[name],
            f"{one['top1']:.2%}",
            f"{low:.2%}–{high:.2%}",
            "–" if one["top5"] is None else f"{one['top5']:.2%}",
            f"{one['images']}",
            f"{one['loss']:.3f}",
            f"{summary['params'] / 1e6:.2f} M",
        )
    return made


def recipes_table(recipes: Mapping[str, NamedRecipe]) -> Table:
    """The named recipes' figures."""
    made = table("recipes", ("", "epochs", "px", "images a step", "learning rate", "distils"))
    for name, one in recipes.items():
        recipe = one.recipe
        rate = f"{recipe.learning_rate:g}" + (" per 1024" if recipe.scale_rate else "")
        figures = (recipe.epochs, recipe.input_size, recipe.batch_size, rate, recipe.distillation)
        made.add_row(name, *map(str, figures))
    return made


def recipe_lines(name: str, one: NamedRecipe) -> str:
    """What a recipe is for, where it is from, and what it reaches."""
    return f"  {name}: {one.about}\n    from: {one.source}\n    reaches: {one.expected}"
