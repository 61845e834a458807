import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.architecture import Architecture, Block, Stage
from efficientformer.search.space.actions import Action, candidates, difference
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import SearchSpace, supernet_space

KINDS = {"P": "pool", "A": "attention", "I": "identity"}


def network(*stages: tuple[int, str]) -> Architecture:
    """Written as (width, blocks), such as (32, "PPA")."""
    built = tuple(Stage(width, tuple(Block(KINDS[letter]) for letter in row)) for width, row in stages)
    return Architecture(built, input_size=(64, 64), num_classes=5)


START = network((32, "PP"), (64, "PP"), (96, "PPA"), (160, "AA"))
SPACE = SearchSpace(START)
IMPORTANCE = Importance(((5.0, 6.0), (4.0, 7.0), (1.0, 9.0, 3.0), (8.0, 2.0)))


def first_of_each(architecture: Architecture) -> list[str]:
    return [str(actions[0]) for actions in candidates(architecture, IMPORTANCE, SPACE)]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (
            START,
            [
                "remove block 0 of stage 3",
                "block 2 of stage 3: attention → pooling",
                "narrow stage 4 to 144",  # 8 + 2 is the least sum
            ],
        ),
        (
            network((32, "PP"), (64, "PP"), (96, "IPP"), (160, "AA")),
            [
                "remove block 1 of stage 4",
                "block 0 of stage 4: attention → pooling",
                "narrow stage 4 to 144",
            ],
        ),
        (
            network((16, "PI"), (64, "PI"), (96, "IIP"), (16, "PI")),  # stage 4 cannot get narrower
            ["narrow stage 3 to 80"],
        ),
        (network((16, "PI"), (16, "PI"), (16, "IIP"), (16, "PI")), []),
    ],
)
def test_the_papers_three_actions_take_the_least_important(
    architecture: Architecture, expected: list[str]
) -> None:
    assert first_of_each(architecture) == expected


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Action("remove_block", 2, 1), network((32, "PP"), (64, "PP"), (96, "PIA"), (160, "AA"))),
        (Action("remove_attention", 2, 2), network((32, "PP"), (64, "PP"), (96, "PPP"), (160, "AA"))),
        (Action("narrow_stage", 3, width=96), network((32, "PP"), (64, "PP"), (96, "PPA"), (96, "AA"))),
        (Action("replace_block", 0, 1, block="ffn"), START.with_block(0, 1, "ffn")),
        (Action("narrow_mlp", 2, 0, expansion=2), START.with_expansion(2, 0, 2)),
        (Action("change_activation", -1, activation="relu"), dataclasses.replace(START, activation="relu")),
        (Action("change_stem", -1, stem="stem_patch"), dataclasses.replace(START, stem="stem_patch")),
        (Action("shrink_input", -1, input_size=32), START.with_input_size(32)),
    ],
)
def test_an_action_does_what_it_says(action: Action, expected: Architecture) -> None:
    assert action.apply(START) == expected


def test_every_action_makes_a_smaller_network_of_the_same_space() -> None:
    smallest, seen = SPACE.smallest(), [START]
    while actions := [one for kind in candidates(seen[-1], IMPORTANCE, SPACE) for one in kind]:
        for action in actions:
            after = action.apply(seen[-1])
            assert after.macs < seen[-1].macs
            assert all(a >= b for a, b in zip(after.widths, smallest.widths, strict=True))
            assert all(depth >= 1 for depth in after.depths)
        seen.append(actions[0].apply(seen[-1]))
    assert seen[-1].widths == smallest.widths
    assert seen[-1].depths == smallest.depths


WIDE_OPEN = Choices(
    supernet_space(
        "xs",
        input_size=64,
        num_classes=5,
        kinds=("pool", "ffn", "attention"),
        expansions=(2, 3),
        activations=("relu",),
        stems=("stem_patch",),
        input_sizes=(32,),
    )
)


@given(st.integers(0, 2**32 - 1))
def test_a_difference_leads_from_one_network_to_the_other(seed: int) -> None:
    generator = random.Random(seed)
    before, after = WIDE_OPEN.sample(generator), WIDE_OPEN.sample(generator)
    action = difference(before, after)
    assert action.apply(before) == after
    assert Action.from_json(action.to_json()) == action
    assert not difference(after, after).parts
