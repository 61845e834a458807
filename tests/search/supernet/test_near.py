"""Networks near the budgets, for a supernet that is trained on them."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import torch

from efficientformer.architecture import Architecture
from efficientformer.layers import Layer
from efficientformer.search.space.choices import attends_at_end
from efficientformer.search.space.costs import Listed, Remembered, predicted_ms
from efficientformer.search.space.variation import Variation
from efficientformer.search.supernet.draws import Sampling, draw
from efficientformer.search.supernet.near import WIDE, Near
from tests.search.made_up import CHOICES, SPACE, MacsCosts

COSTS = Remembered(MacsCosts())
TOP = predicted_ms(COSTS, SPACE.largest)


class Half:
    """Half the costs."""

    base_ms = COSTS.base_ms / 2

    def cost_ms(self, layer: Layer) -> float:
        return COSTS.cost_ms(layer) / 2


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
    near = Near(SPACE, (COSTS,), tuple(share * TOP for share in budgets))
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


def test_of_several_targets_each_is_drawn_by() -> None:
    """In one of them everything takes half as long."""
    near = Near(SPACE, (COSTS, Half()), (0.3 * TOP,))
    shares = [predicted_ms(COSTS, one) / TOP for one in drawn(near, 40)]
    assert all(0.24 <= share <= 0.36 or 0.48 <= share <= 0.72 for share in shares)
    assert 10 < sum(share < 0.4 for share in shares) < 30


@pytest.mark.parametrize(("budget", "end"), [(0.001, SPACE.smallest()), (9 * TOP, SPACE.largest)])
def test_a_budget_beyond_the_space_counts_as_its_end(budget: float, end: Architecture) -> None:
    ms, near = predicted_ms(COSTS, end), Near(SPACE, (COSTS,), (budget,))
    assert all((1 - WIDE) * ms <= predicted_ms(COSTS, one) <= (1 + WIDE) * ms for one in drawn(near, 9))


def test_where_none_is_near_it_is_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Variation, "sample", lambda _: None)
    assert len(set(drawn(Near(SPACE, (COSTS,), (0.5 * TOP,)), 5))) == 5


def test_images_stay_of_the_size_they_are_read_in() -> None:
    """The latency is the network's at that size."""
    space = dataclasses.replace(SPACE, input_sizes=(32,))
    near = Near(space, (COSTS,), (0.5 * TOP,))
    networks = [near.draw(random.Random(seed)) for seed in range(9)]
    assert {one.input_size for one in networks} == {SPACE.largest.input_size}
    assert all(0.4 * TOP <= predicted_ms(COSTS, one) <= 0.6 * TOP for one in networks)


def test_without_budgets_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="near"):
        draw(SPACE, ALPHAS, Sampling(paths="near"), 0, 0.0, 0)


def test_costs_sent_as_json_are_the_same_costs() -> None:
    layers = SPACE.layers()
    listed = Listed.from_json(json.loads(json.dumps(Listed.of(COSTS, layers).to_json())))
    assert listed.base_ms == COSTS.base_ms
    assert [listed.cost_ms(one) for one in layers] == [COSTS.cost_ms(one) for one in layers]
