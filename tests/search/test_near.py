"""Networks near the budgets, for a supernet that is trained on them."""

from __future__ import annotations

import random

import pytest
import torch

from efficientformer.search.choices import attends_at_end
from efficientformer.search.costs import Listed, Remembered, predicted_ms
from efficientformer.search.draws import Sampling, draw
from efficientformer.search.near import WIDE, Near
from tests.search.made_up import CHOICES, SPACE, MacsCosts

COSTS = Remembered(MacsCosts())
TOP = predicted_ms(COSTS, SPACE.largest)
ALPHAS = [torch.zeros(len(one.blocks), 4) for one in SPACE.largest.stages]


def drawn(near: Near, count: int) -> list:
    found = [draw(SPACE, ALPHAS, Sampling(paths="near"), step, 0.5, 0, near) for step in range(count)]
    for one in found:
        kinds = tuple(
            tuple(SPACE.paths(stage).index(block.kind) for block in row.blocks)
            for stage, row in enumerate(one.frame.stages)
        )
        assert one.chosen == kinds
    return [one.frame for one in found]


@pytest.mark.parametrize("budgets", [(0.5,), (0.3, 0.8)])
def test_every_step_has_a_network_near_a_budget(budgets: tuple[float, ...]) -> None:
    near = Near(CHOICES, COSTS, tuple(share * TOP for share in budgets))
    networks = drawn(near, 60)
    shares = [predicted_ms(COSTS, one) / TOP for one in networks]
    nearest = [min(budgets, key=lambda one: abs(one - share)) for share in shares]
    assert all(
        (1 - WIDE) * one <= share <= (1 + WIDE) * one for share, one in zip(shares, nearest, strict=True)
    )
    assert set(nearest) == set(budgets)
    assert len(set(networks)) > 50
    assert all(CHOICES.holds(one) and attends_at_end(one) for one in networks)
    assert drawn(near, 60) == networks


def test_where_none_is_near_it_is_any_network() -> None:
    near = Near(CHOICES, COSTS, (0.001,))
    assert len(set(drawn(near, 5))) == 5


def test_images_stay_of_the_size_they_are_read_in() -> None:
    near = Near(CHOICES, COSTS, (0.5 * TOP,))
    assert {near.draw(random.Random(seed)).input_size for seed in range(5)} == {SPACE.largest.input_size}


def test_without_budgets_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="near"):
        draw(SPACE, ALPHAS, Sampling(paths="near"), 0, 0.0, 0)


def test_costs_sent_as_text_are_the_same_costs() -> None:
    layers = SPACE.layers()
    listed = Listed.from_text(Listed.of(COSTS, layers).to_text())
    assert listed.base_ms == COSTS.base_ms
    assert [listed.cost_ms(one) for one in layers] == [COSTS.cost_ms(one) for one in layers]
