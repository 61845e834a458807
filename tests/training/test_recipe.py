"""A recipe, as a value."""

from __future__ import annotations

import json

from efficientformer.training.recipe import Recipe


def test_a_recipe_is_a_json_document() -> None:
    recipe = Recipe(epochs=3)
    assert json.loads(json.dumps(recipe.to_json())) == recipe.to_json()
    assert recipe.to_json()["augmentation"]["min_area"] == 0.35
