"""The searches that score networks of the window alike: what all promise, and which is worth its cost."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.search.policies.bayesian import search_bayesian
from efficientformer.search.policies.evolution import evolve
from efficientformer.search.policies.random_search import search_randomly
from efficientformer.search.scores import Tally, canonical
from efficientformer.search.space.costs import EmptyWindowError, Remembered, Window, predicted_ms
from efficientformer.search.space.variation import Variation
from tests.search.made_up import CHOICES, SPACE, MacsCosts, score, score_one

COSTS = Remembered(MacsCosts())
TOP = predicted_ms(COSTS, SPACE.largest)
WINDOW = Window(0.93 * 0.5 * TOP, 0.5 * TOP)
EACH = pytest.mark.parametrize("how", [search_bayesian, evolve, search_randomly])


class Judge:
    def __init__(self) -> None:
        self.asked: list[list[Architecture]] = []

    def __call__(self, networks: Sequence[Architecture]) -> list[Score]:
        self.asked.append(list(networks))
        return score(networks)


@EACH
@pytest.mark.parametrize("evaluations", [1, 5, 50])
def test_it_scores_as_many_different_networks_of_the_window_as_it_may(how, evaluations: int) -> None:
    judge = Judge()
    found = how(CHOICES, COSTS, WINDOW, Tally(judge), evaluations, seed=1)
    asked = [one for batch in judge.asked for one in batch]
    assert len(asked) == len(set(map(canonical, asked))) == evaluations
    assert all(WINDOW.holds(predicted_ms(COSTS, one)) and CHOICES.holds(one) for one in asked)
    assert found.score.loss == min(score_one(one).loss for one in asked)
    assert found.predicted_ms == predicted_ms(COSTS, found.architecture)


@EACH
def test_a_seed_gives_the_same_search_again(how) -> None:
    judges = Judge(), Judge(), Judge()
    for judge, seed in zip(judges, (3, 3, 4), strict=True):
        how(CHOICES, COSTS, WINDOW, Tally(judge), 40, seed=seed)
    assert judges[0].asked == judges[1].asked != judges[2].asked


@pytest.mark.parametrize(("how", "other"), [(evolve, search_randomly), (search_bayesian, evolve)])
def test_at_equal_cost_the_better_search_finds_the_better_network(how, other) -> None:
    pairs = [
        [one(CHOICES, COSTS, WINDOW, Tally(score), 96, seed=seed).score.loss for one in (how, other)]
        for seed in range(5)
    ]
    assert sum(better < worse for better, worse in pairs) >= 4, pairs


@EACH
def test_a_window_without_networks_is_refused(how) -> None:
    with pytest.raises(
        EmptyWindowError, match=r"no network of the space is predicted between 0.001 and 0.002"
    ):
        how(CHOICES, COSTS, Window(0.001, 0.002), Tally(score), 10)


@EACH
def test_a_window_with_few_networks_is_searched_whole(how) -> None:
    judge, window = Judge(), Window(TOP, TOP)
    found = how(CHOICES, COSTS, window, Tally(judge), 10)
    assert found.architecture == SPACE.largest
    assert len(judge.asked) == 1


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_nearly_every_draw_reaches_a_narrow_window(share: float) -> None:
    window = Window(0.95 * share * TOP, 0.99 * share * TOP)
    variation = Variation(CHOICES, COSTS, window, random.Random(0))
    drawn = [variation.sample() for _ in range(40)]
    reached = [one for one in drawn if one is not None]
    assert len(reached) >= 36
    assert len(set(reached)) >= 35
    assert all(CHOICES.holds(one) and window.holds(predicted_ms(COSTS, one)) for one in reached)
    child = variation.crossed(*reached[:2])
    assert child is not None and CHOICES.holds(child) and window.holds(predicted_ms(COSTS, child))
