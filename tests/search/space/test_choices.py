import dataclasses
import random

import pytest

from efficientformer.search.space.actions import ACTIONS, candidates
from efficientformer.search.space.choices import Choices, Place, attends_at_end
from efficientformer.search.space.importance import Importance
from tests.search.made_up import CHOICES, PAPERS, SPACE
from tests.search.space.test_actions import network

FLAT = Importance(tuple((1.0,) * len(stage.blocks) for stage in SPACE.largest.stages))


@pytest.mark.parametrize(
    ("third", "fourth", "expected"),
    [
        ("PPPA", "A", True),
        ("PIAI", "IA", True),
        ("PPPP", "PP", True),
        ("PPPA", "I", True),
        ("PAPP", "A", False),
        ("AIPA", "A", False),
        ("PPPA", "P", False),
    ],
)
def test_attention_is_at_the_end_if_nothing_else_follows(third: str, fourth: str, expected: bool) -> None:
    assert attends_at_end(network((16, "P"), (16, "P"), (16, third), (16, fourth))) == expected


@pytest.mark.parametrize("allowed", [ACTIONS, PAPERS, ("narrow_stage",), ("remove_block", "narrow_mlp")])
def test_what_the_actions_lead_to_is_of_the_space(allowed: tuple) -> None:
    choices, generator, here = Choices(SPACE, allowed), random.Random(0), SPACE.largest
    while actions := [one for kind in candidates(here, FLAT, SPACE, allowed) for one in kind]:
        here = generator.choice(actions).apply(here)
        assert choices.holds(here)


def test_random_networks_and_their_neighbours_are_of_the_space() -> None:
    generator = random.Random(1)
    seen = set()
    for _ in range(20):
        drawn = CHOICES.sample(generator)
        near = CHOICES.neighbours(drawn)
        assert CHOICES.holds(drawn)
        assert len(near) == len(set(near)) > 10
        assert all(CHOICES.holds(one) and drawn in CHOICES.neighbours(one) for one in near)
        seen.add(drawn)
    assert len(seen) == 20


def test_what_is_not_allowed_stays_as_the_largest_network_has_it() -> None:
    choices = Choices(SPACE, ("narrow_stage",))
    drawn = choices.sample(random.Random(2))
    assert [stage.blocks for stage in drawn.stages] == [stage.blocks for stage in SPACE.largest.stages]
    assert drawn.widths != SPACE.largest.widths
    assert not choices.holds(SPACE.largest.with_block(0, 0, "identity"))


def test_a_network_with_an_emptied_stage_is_not_of_the_space() -> None:
    emptied = SPACE.largest.with_block(0, 0, "identity").with_block(0, 1, "identity")
    assert not CHOICES.holds(emptied)
    assert not CHOICES.holds(SPACE.largest.compact().with_width(0, 24))


def test_activation_stem_and_input_size_are_places_too() -> None:
    space = dataclasses.replace(SPACE, activations=("relu",), stems=("stem_patch",), input_sizes=(32,))
    places = Choices(space).places
    assert places[Place("activation")] == ("gelu", "relu")
    assert places[Place("stem")] == ("stem", "stem_patch")
    assert places[Place("input_size")] == (64, 32)
    assert Choices(space, PAPERS).places[Place("input_size")] == (64,)
    assert Place("input_size").put(space.largest, 32).input_size == (32, 32)
