"""Made-up costs, values and scores for tests of the search; nothing here is measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.layers import Layer
from efficientformer.search.policies.values import Values, repaired
from efficientformer.search.space.actions import ACTIONS
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import IDENTITY, supernet_space

PAPERS = ACTIONS[:3]  # what the paper slims by
SPACE = supernet_space(
    "xs", input_size=64, num_classes=10, kinds=("pool", "ffn", "attention"), expansions=(2,)
)
CHOICES = Choices(SPACE)


class MacsCosts:
    """Milliseconds in proportion to multiply-accumulates, and a little for each layer."""

    base_ms = 0.02

    def cost_ms(self, layer: Layer) -> float:
        return layer.macs / 2e7 + 0.005


class RandomCosts:
    """Any cost for any layer, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.base_ms = random.Random(seed).uniform(0, 0.1)
        self.cost_ms = cache(lambda layer: random.Random(f"{seed} {layer.key()}").uniform(0.01, 0.2))


def random_values(choices: Choices, seed: int) -> Values:
    """Any rises, repaired as measured ones are; an equal chance of a tie."""
    generator = random.Random(seed)
    rises = {
        place: dict(
            zip(
                can,
                repaired(place, can, [0.0, *(generator.uniform(-0.1, 0.4) for _ in can[1:])]),
                strict=True,
            )
        )
        for place, can in choices.places.items()
    }
    return Values(rises)


VALUES = random_values(CHOICES, 3)


def score_one(network: Architecture) -> Score:
    """A loss that is not quite additive, and an accuracy in steps of a thousandth."""
    rise = VALUES.of(network)
    loss = 1 + rise + 0.3 * max(0.0, rise) ** 2
    return Score(round(max(0.1, 0.9 - 0.2 * loss), 3), loss, 1000)


def by_removal(here: Architecture) -> Importance:
    """Importance in a network: what its loss rises by when a block is left out."""
    found = [[0.0] * len(stage.blocks) for stage in here.stages]
    for stage, position in SPACE.positions():
        rise = score_one(here.with_block(stage, position, IDENTITY)).loss - score_one(here).loss
        found[stage][position] = round(rise, 6)
    return Importance(tuple(map(tuple, found)))


def score(networks: Sequence[Architecture]) -> list[Score]:
    return [score_one(one) for one in networks]
