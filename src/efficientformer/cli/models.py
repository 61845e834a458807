"""`efficientformer models`: the zoo."""

from __future__ import annotations

from efficientformer.cli.options import Json, print_json
from efficientformer.errors import InputError
from efficientformer.model.card import model_card
from efficientformer.model.zoo import list_models
from efficientformer.terminal.models import models_table
from efficientformer.terminal.table import show


def models(pattern: str = "*", *, input_size: int = 224, as_json: Json = False) -> None:
    """The networks known by name: parameters, MACs, activation memory, published accuracy.

    Args:
        pattern: a shell-style pattern.
        input_size: pixels of a side that MACs and memory are counted for.
        as_json: print JSON, with the published weights and the memory of training as well.
    """
    names = list_models(pattern)
    if not names:
        raise InputError(f"no model matches {pattern!r}; known: {', '.join(list_models())}")
    cards = [model_card(name, input_size) for name in names]
    if as_json:
        print_json([card.to_json() for card in cards])
    else:
        show(models_table(cards))
