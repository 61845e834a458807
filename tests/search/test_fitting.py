"""Importances fitted to whole networks, against sums that are known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from efficientformer.search.choices import Place
from efficientformer.search.fitting import Fit
from tests.search.made_up import CHOICES, VALUES


def networks(count: int, seed: int = 0) -> list:
    generator = random.Random(seed)
    return [CHOICES.sample(generator) for _ in range(count)]


def rank(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_a_sum_is_found_again_in_networks_that_were_not_scored() -> None:
    known, others = networks(200), networks(100, seed=1)
    fitted = Fit(CHOICES, known, [1 + VALUES.of(one) for one in known]).values()
    pair = [fitted.of(one) for one in others], [VALUES.of(one) for one in others]
    assert np.corrcoef(*map(rank, pair))[0, 1] > 0.9


@pytest.mark.parametrize("count", [1, 2, 30])
def test_every_choice_has_a_value_and_smaller_is_never_better(count: int) -> None:
    known, generator = networks(count), np.random.default_rng(0)
    losses = [random.Random(index).uniform(1, 2) for index in range(count)]  # nothing to learn
    fit = Fit(CHOICES, known, losses)
    for values in (fit.values(), fit.values(generator)):
        assert set(values.rises) == set(CHOICES.places)
        for place, can in CHOICES.places.items():
            rises = [values.rises[place][choice] for choice in can]
            assert rises[0] == 0.0
            if place.what in ("width", "expansion"):
                assert rises == sorted(rises)


def test_draws_differ_more_where_less_is_known() -> None:
    def spread(count: int) -> float:
        known = networks(count)
        fit = Fit(CHOICES, known, [1 + VALUES.of(one) for one in known])
        drawn = [fit.values(np.random.default_rng(seed)) for seed in range(12)]
        return float(np.mean([np.std([one.rises[Place("kind", 0, 0)]["pool"] for one in drawn])]))

    assert spread(200) < 0.7 * spread(10)
    first, again = (Fit(CHOICES, networks(9), [1.0] * 9).values(np.random.default_rng(1)) for _ in range(2))
    assert first == again


def test_losses_in_other_units_give_values_in_those_units() -> None:
    known = networks(40)
    losses = [VALUES.of(one) for one in known]
    one, other = (Fit(CHOICES, known, [scale * loss for loss in losses]).values() for scale in (1, 100))
    some = networks(10, seed=2)
    assert [100 * one.of(network) for network in some] == pytest.approx([other.of(n) for n in some], rel=1e-3)
