import json

import pytest

from efficientformer import InputError
from efficientformer.search.policies.gap import greedy_over, optimality_gap
from efficientformer.search.space.costs import Remembered, predicted_ms
from tests.search.made_up import CHOICES, SPACE, VALUES, MacsCosts, score, score_one

COSTS = Remembered(MacsCosts())
TOP = predicted_ms(COSTS, SPACE.largest)


def test_the_greedy_choice_over_values_takes_the_least_rise_per_millisecond() -> None:
    steps = greedy_over(CHOICES, VALUES, COSTS, 0.5 * TOP)
    path = [SPACE.largest, *(step.architecture for step in steps)]
    assert predicted_ms(COSTS, path[-1]) <= 0.5 * TOP < predicted_ms(COSTS, path[-2])
    for before, step in zip(path, steps, strict=False):
        rates = [
            max(0.0, option.loss - VALUES.of(before)) / option.saved_ms
            for option in (step.chosen, *step.turned_down)
        ]
        assert rates[0] == min(rates)
        assert step.chosen.loss == VALUES.of(step.architecture)


def test_the_gap_tells_what_the_greedy_choice_gives_away() -> None:
    gap = optimality_gap(CHOICES, VALUES, COSTS, 0.4 * TOP, score)
    assert gap.objective_gap == VALUES.of(gap.greedy) - VALUES.of(gap.exact.architecture)
    assert gap.objective_gap > 0
    assert max(gap.greedy_ms, gap.exact.predicted_ms) <= 0.4 * TOP
    assert gap.loss_gap == score_one(gap.greedy).loss - score_one(gap.exact.architecture).loss
    document = json.loads(json.dumps(gap.to_json()))
    assert document["objective_gap"] == gap.objective_gap
    assert optimality_gap(CHOICES, VALUES, COSTS, 0.4 * TOP).loss_gap is None


def test_a_budget_over_the_largest_network_leaves_nothing_to_choose() -> None:
    gap = optimality_gap(CHOICES, VALUES, COSTS, 2 * TOP)
    assert gap.greedy == SPACE.largest
    assert gap.objective_gap >= 0


def test_a_budget_below_everything_is_refused() -> None:
    with pytest.raises(InputError, match="nothing is left to take away"):
        greedy_over(CHOICES, VALUES, COSTS, 0.01)
