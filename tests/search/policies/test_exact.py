import dataclasses
import itertools
import random
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.architecture import Architecture, Block
from efficientformer.search.policies.exact import solve
from efficientformer.search.policies.gap import greedy_over
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Remembered, Window, predicted_ms
from efficientformer.search.space.search_space import SearchSpace, supernet_space
from tests.search.made_up import CHOICES, PAPERS, VALUES, MacsCosts, RandomCosts, random_values
from tests.search.space.test_actions import network

SMALL = {
    "attention over two stages": SearchSpace(
        network((32, "P"), (16, "P"), (32, "PA"), (16, "AA")), ("pool", "ffn", "attention")
    ),
    "many widths": SearchSpace(
        network((32, "P"), (48, "P"), (48, "P"), (48, "A")), ("pool", "ffn", "attention")
    ),
    "expansions, activations and input sizes": SearchSpace(
        network((16, "P"), (16, "P"), (32, "PA"), (16, "A")),
        expansions=(2,),
        activations=("relu",),
        input_sizes=(32,),
    ),
    "stems": SearchSpace(
        network((48, "PP"), (16, "P"), (16, "P"), (32, "A")), expansions=(2,), stems=("stem_patch",)
    ),
    "no block may go": SearchSpace(
        network((32, "PP"), (16, "PP"), (16, "PA"), (32, "AA")), ("pool", "ffn", "attention"), min_depth=2
    ),
}


def everything(space: SearchSpace) -> Iterator[Architecture]:
    """Every network of a space, by plain enumeration."""
    largest = space.largest
    sides = {largest.input_size[0], *space.input_sizes}
    blocks = [
        [
            Block(kind, expansion)
            for kind in space.paths(stage)
            if kind != "attention" or largest.stages[stage].blocks[position].kind == kind
            for expansion in (space.expansions_of(stage, position) if kind != "identity" else (4,))
        ]
        for stage, position in space.positions()
    ]
    for chosen in itertools.product(*blocks):
        row, stages = iter(chosen), []
        for stage in largest.stages:
            stages.append(tuple(itertools.islice(row, len(stage.blocks))))
        alive = "".join("A" if one.kind == "attention" else "x" for one in chosen if one.kind != "identity")
        deep = all(
            sum(one.kind != "identity" for one in stage) >= min(space.min_depth, len(stage))
            for stage in stages
        )
        if not deep or "Ax" in alive:
            continue
        for widths in itertools.product(*(space.widths(stage) for stage in range(4))):
            built = tuple(
                dataclasses.replace(stage, width=width, blocks=row)
                for stage, width, row in zip(largest.stages, widths, stages, strict=True)
            )
            for activation, stem, side in itertools.product(
                (largest.activation, *space.activations), (largest.stem, *space.stems), sorted(sides)
            ):
                yield dataclasses.replace(
                    largest, stages=built, activation=activation, stem=stem, input_size=(side, side)
                )


@cache
def listed(name: str) -> tuple[Architecture, ...]:
    return tuple(everything(SMALL[name]))


@pytest.mark.parametrize("name", SMALL)
def test_the_choices_of_a_space_are_all_its_networks(name: str) -> None:
    space, generator = SMALL[name], random.Random(0)
    networks = listed(name)
    assert len(networks) == len(set(networks)) > 400
    assert all(map(Choices(space).holds, generator.sample(networks, 50)))
    assert {Choices(space).sample(generator).compact() for _ in range(50)} <= {
        one.compact() for one in networks
    }


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), top=st.floats(0.05, 1), share=st.sampled_from([0.0, 0.9, 0.99]))
def test_it_is_the_best_of_all_networks(name: str, seed: int, top: float, share: float) -> None:
    space = SMALL[name]
    choices, costs = Choices(space), RandomCosts(seed)
    values = random_values(choices, seed)
    timed = [(predicted_ms(costs, one), one) for one in random.Random(seed).sample(listed(name), 2)]
    high = costs.base_ms + top * (max(timed, key=lambda pair: pair[0])[0] - costs.base_ms)
    window = Window(share * high, high)
    inside = [one for one in listed(name) if window.holds(predicted_ms(costs, one))]
    if not inside:
        with pytest.raises(InputError, match="no network of the space is predicted between"):
            solve(choices, values, costs, window)
        return
    best = min(map(values.of, inside))
    found = solve(choices, values, costs, window)
    assert found.architecture in inside
    assert found.objective == values.of(found.architecture) == pytest.approx(best, abs=2e-6)
    assert found.bound <= best + 2e-6 and found.objective <= found.bound + 2e-6


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), share=st.floats(0.15, 0.9))
def test_it_is_never_worse_than_the_greedy_choice(seed: int, share: float) -> None:
    costs, values = Remembered(MacsCosts()), random_values(CHOICES, seed)
    high = share * predicted_ms(costs, CHOICES.space.largest)
    steps = greedy_over(CHOICES, values, costs, high)
    greedy = steps[-1].architecture
    found = solve(CHOICES, values, costs, Window(0, high))
    assert predicted_ms(costs, greedy) <= high
    assert found.objective <= values.of(greedy) + 2e-6


def test_only_allowed_actions_shape_it() -> None:
    choices, costs = Choices(CHOICES.space, PAPERS), Remembered(MacsCosts())
    top = predicted_ms(costs, CHOICES.space.largest)
    found = solve(choices, VALUES, costs, Window(0, 0.4 * top))
    blocks = [block for stage in found.architecture.stages for block in stage.blocks]
    assert choices.holds(found.architecture)
    assert {block.expansion for block in blocks} == {4}


def test_of_networks_of_equal_value_it_takes_one_that_is_as_wide_as_it_gets() -> None:
    values = random_values(CHOICES, 0)
    flat = dataclasses.replace(
        values, rises={place: dict.fromkeys(can, 0.0) for place, can in CHOICES.places.items()}
    )
    costs = Remembered(MacsCosts())
    top = predicted_ms(costs, CHOICES.space.largest)
    window = Window(0.0, 1.1 * top)
    assert solve(CHOICES, flat, costs, window).architecture == CHOICES.space.largest


@pytest.mark.slow
def test_the_supernet_s_takes_seconds() -> None:
    space = supernet_space(
        "s", input_size=96, num_classes=10, kinds=("pool", "ffn", "attention"), expansions=(2, 3)
    )
    choices, costs = Choices(space), Remembered(MacsCosts())
    top = predicted_ms(costs, space.largest)
    found = solve(choices, random_values(choices, 1), costs, Window(0.95 * 0.3 * top, 0.99 * 0.3 * top))
    assert found.objective <= found.bound + 2e-6
