import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.search.policies.refine import refine
from efficientformer.search.scores import Tally
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Remembered, Window, predicted_ms
from tests.search.made_up import CHOICES, SPACE, MacsCosts, score

COSTS = Remembered(MacsCosts())
TOP = predicted_ms(COSTS, SPACE.largest)


def differences(one, other) -> int:
    return sum(place.of(one) != place.of(other) for place in CHOICES.places)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), share=st.floats(0.85, 1.15))
def test_a_network_near_a_window_is_moved_into_it(seed: int, share: float) -> None:
    network = CHOICES.sample(random.Random(seed))
    goal = min(share * predicted_ms(COSTS, network), 0.95 * TOP)
    window, tally = Window(0.95 * goal, 0.99 * goal), Tally(score)
    found = refine(network, window, CHOICES, COSTS, tally, 32)
    assert window.holds(predicted_ms(COSTS, found))
    assert CHOICES.holds(found)
    assert len(tally) <= 32
    assert found == refine(network, window, CHOICES, COSTS, Tally(score), 32)


def test_a_network_in_the_window_stays_as_it_is() -> None:
    tally = Tally(score)
    found = refine(SPACE.largest, Window(0.9 * TOP, TOP), CHOICES, COSTS, tally)
    assert found == SPACE.largest
    assert len(tally) == 0


def test_without_evaluations_the_nearest_is_taken() -> None:
    tally = Tally(score)
    window = Window(0.78 * TOP, 0.8 * TOP)
    found = refine(SPACE.largest, window, CHOICES, COSTS, tally, 0)
    assert window.holds(predicted_ms(COSTS, found))
    assert len(tally) == 0


def test_of_several_in_the_window_the_best_by_score_is_taken() -> None:
    window = Window(0.9 * TOP, 0.98 * TOP)
    inside = [one for one in CHOICES.neighbours(SPACE.largest) if window.holds(predicted_ms(COSTS, one))]
    dearest = sorted(inside, key=lambda one: -predicted_ms(COSTS, one))[:8]
    found = refine(SPACE.largest, window, CHOICES, COSTS, Tally(score))
    assert found == min(dearest, key=lambda one: score([one])[0].loss)


@pytest.mark.parametrize("width", [160, 16])
def test_where_no_network_is_in_the_window_the_nearest_below_is_taken(width: int) -> None:
    """Only widths may change, in steps: nothing lies between two of their latencies."""
    choices = Choices(SPACE, ("narrow_stage",))
    start = SPACE.largest.with_width(3, width)
    steps = sorted({predicted_ms(COSTS, one) for one in everything(choices)})
    low = next(index for index, ms in enumerate(steps) if ms > 0.6 * TOP)
    window = Window(steps[low] + 1e-6, steps[low + 1] - 1e-6)
    found = refine(start, window, choices, COSTS, Tally(score))
    assert 0.9 * window.low_ms < predicted_ms(COSTS, found) < window.low_ms


def everything(choices: Choices) -> list:
    networks = [SPACE.largest]
    for place, can in choices.places.items():
        networks = [place.put(one, choice) for one in networks for choice in can]
    return networks


def test_below_the_smallest_network_there_is_nothing() -> None:
    with pytest.raises(InputError, match="no network at or under"):
        refine(SPACE.smallest(), Window(0.0, 0.001), CHOICES, COSTS, Tally(score))
