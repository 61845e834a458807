import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from efficientformer import InputError
from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.search.policies.values import measure_values, repaired
from efficientformer.search.space.choices import Choices, Place
from tests.search.made_up import CHOICES, SPACE, VALUES, score, score_one

LOSSES = st.lists(st.floats(-1, 1).map(lambda one: round(one, 3)), min_size=2, max_size=7)


def additive(networks: Sequence[Architecture]) -> list[Score]:
    return [Score(0.5, 2.0 + VALUES.of(one), 100) for one in networks]


def test_additive_losses_are_found_again() -> None:
    """Where a block's rise was not held down to its identity's, which is not additive."""
    plain = Choices(SPACE, ("narrow_stage", "remove_block"))
    values = measure_values(plain, additive)
    generator = random.Random(5)
    for _ in range(10):
        network = plain.sample(generator)
        assert values.of(network) == pytest.approx(VALUES.of(network))


def test_each_single_change_is_scored_once_in_one_call() -> None:
    calls: list[list[Architecture]] = []

    def asked(networks: Sequence[Architecture]) -> list[Score]:
        calls.append(list(networks))
        return score(networks)

    values = measure_values(CHOICES, asked)
    (networks,) = calls
    assert len(networks) == len(set(networks)) == 1 + sum(len(can) - 1 for can in CHOICES.places.values())
    place = Place("kind", 2, 1)
    change = score_one(SPACE.largest.with_block(2, 1, "pool")).loss - score_one(SPACE.largest).loss
    assert values.rises[place]["pool"] == pytest.approx(min(change, values.rises[place]["identity"]))


@given(rises=LOSSES)
def test_sizes_are_repaired_to_the_nearest_rises_that_never_fall(rises: list[float]) -> None:
    sizes = tuple(range(16 * (len(rises) + 1), 0, -16))
    fixed = repaired(Place("width", 0), sizes, [0.0, *rises])
    assert fixed[0] == 0 and fixed == sorted(fixed)
    steps = minimize(
        lambda x: float(((np.cumsum(x) - rises) ** 2).sum()),
        np.full(len(rises), 0.1),
        bounds=[(0, None)] * len(rises),
    )
    assert sum((a - b) ** 2 for a, b in zip(fixed[1:], rises, strict=True)) <= steps.fun + 1e-6


@given(rises=LOSSES)
def test_kinds_are_repaired_to_the_nearest_rises_under_the_identitys(rises: list[float]) -> None:
    *others, identity = rises
    kinds = ("own", *map(str, range(len(others))), "identity")
    own, *kept, last = repaired(Place("kind", 0, 0), kinds, [0.0, *rises])
    assert own == 0 and last >= 0 and all(one <= last for one in kept)

    def cost(level: float) -> float:
        return (level - identity) ** 2 + sum((min(one, level) - one) ** 2 for one in others)

    best = min(cost(level) for level in np.linspace(0, 1, 2001))
    assert cost(last) <= best + 1e-6


def test_an_activation_may_be_better_than_the_largest_networks() -> None:
    assert repaired(Place("activation"), ("gelu", "relu"), [0.0, -0.1]) == [0.0, -0.1]


def test_a_smaller_network_never_has_a_smaller_value() -> None:
    generator = random.Random(6)
    for _ in range(30):
        network = CHOICES.sample(generator)
        for place, can in CHOICES.places.items():
            index = can.index(place.of(network))
            if place.what in ("width", "expansion") and index + 1 < len(can):
                assert VALUES.of(place.put(network, can[index + 1])) >= VALUES.of(network)
            if place.what == "kind" and "identity" in can:
                assert VALUES.of(place.put(network, "identity")) >= VALUES.of(network)


def test_a_network_of_another_space_has_no_value() -> None:
    with pytest.raises(InputError, match="has no value"):
        VALUES.of(SPACE.largest.with_width(2, 1000))
