"""The search by itself, with a made-up latency and a made-up accuracy; nothing here is measured."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.search.journal import Journal, branch, replay
from efficientformer.search.policies.greedy import greedy
from efficientformer.search.space.actions import ACTIONS
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import SearchSpace, supernet_space
from tests.search.made_up import PAPERS

SPACE = supernet_space("xs", input_size=64, num_classes=10)
OPEN = supernet_space(
    "xs",
    input_size=64,
    num_classes=10,
    kinds=("pool", "ffn", "attention"),
    expansions=(2,),
    activations=("relu",),
    stems=("stem_patch",),
    input_sizes=(32,),
)
IMPORTANCE = Importance(((3.0, 1.0), (2.0, 4.0), (1.5, 6.0, 2.5, 5.0), (7.0, 0.5, 8.0)))


def made_up_ms(architecture: Architecture) -> float:
    return architecture.macs / 1e7


def made_up_score(architecture: Architecture) -> Score:
    attention = sum(block.kind == "attention" for stage in architecture.stages for block in stage.blocks)
    accuracy = 0.5 + 0.04 * attention + 0.01 * sum(architecture.depths) + 0.0003 * sum(architecture.widths)
    return Score(min(1.0, accuracy), 1 - accuracy, 100)


def many(networks: Sequence[Architecture]) -> list[Score]:
    return [made_up_score(one) for one in networks]


def search(path: Path, goal_ms: float, space: SearchSpace = SPACE) -> Architecture:
    def fits(architecture: Architecture) -> bool:
        return made_up_ms(architecture) <= goal_ms

    return greedy(space, IMPORTANCE, fits, made_up_ms, many, Journal(path))


def test_each_step_takes_the_least_accuracy_drop_per_millisecond(tmp_path: Path) -> None:
    search(tmp_path / "journal.jsonl", 1.0)
    journal = Journal(tmp_path / "journal.jsonl")
    assert len(journal.steps) > 5
    for step in journal.steps:
        best = max(0.0, step.chosen.drop) / step.chosen.saved_ms
        assert all(best <= max(0.0, other.drop) / other.saved_ms for other in step.turned_down)
        assert step.chosen.saved_ms > 0


def test_of_actions_that_cost_nothing_the_one_that_saves_most_is_taken(tmp_path: Path) -> None:
    """A network that gets better, or stays as good, by every action."""

    def better(networks: Sequence[Architecture]) -> list[Score]:
        return [Score(1 - one.macs / 1e9, one.macs / 1e9, 100) for one in networks]

    def fits(architecture: Architecture) -> bool:
        return made_up_ms(architecture) <= 2.0

    journal = Journal(tmp_path / "journal.jsonl")
    greedy(SPACE, IMPORTANCE, fits, made_up_ms, better, journal)
    assert journal.steps
    for step in journal.steps:
        assert all(step.chosen.saved_ms >= other.saved_ms for other in step.turned_down)


def test_slimming_never_raises_the_predicted_latency(tmp_path: Path) -> None:
    search(tmp_path / "journal.jsonl", 0.5)
    path = [made_up_ms(one) for one in Journal(tmp_path / "journal.jsonl").architectures()]
    assert path == sorted(path, reverse=True)
    assert len(set(path)) == len(path)


@pytest.mark.parametrize("goal_ms", [100.0, 2.5, 1.5, 0.5])
def test_it_stops_at_the_first_network_that_fits(tmp_path: Path, goal_ms: float) -> None:
    found = search(tmp_path / "journal.jsonl", goal_ms)
    journal = Journal(tmp_path / "journal.jsonl")
    assert found == journal.architectures()[-1]
    assert replay(journal) == journal.architectures()
    assert made_up_ms(found) <= goal_ms
    assert all(made_up_ms(one) > goal_ms for one in journal.architectures()[:-1])


@given(kept=st.floats(0, 1))
def test_a_journal_cut_at_any_byte_resumes_to_the_same_path(kept: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole.jsonl"), Path(folder, "cut.jsonl")
        search(whole, 1.0)
        content = whole.read_bytes()
        cut.write_bytes(content[: int(kept * len(content))])
        search(cut, 1.0)
        assert cut.read_bytes() == content


def test_another_budget_picks_another_point_of_the_same_path(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tight = search(path, 1.0)
    before = path.read_bytes()
    loose = search(path, 2.0)
    assert path.read_bytes() == before
    assert made_up_ms(tight) <= 1.0 < made_up_ms(loose) <= 2.0
    tighter = search(path, 0.6)
    assert path.read_bytes().startswith(before)
    assert made_up_ms(tighter) <= 0.6


def test_a_narrowing_that_saves_nothing_is_widened_until_it_does(tmp_path: Path) -> None:
    """A staircase: widths of stage 4 cost in steps of 64, so that 16 fewer channels save nothing."""

    def stairs_ms(architecture: Architecture) -> float:
        widths = (*architecture.widths[:3], -(-architecture.widths[3] // 64) * 64)
        return sum(widths) / 100

    def fits(architecture: Architecture) -> bool:
        return stairs_ms(architecture) <= 2.9

    only_narrowing = dataclasses.replace(SPACE, min_depth=99)
    journal = Journal(tmp_path / "journal.jsonl")
    greedy(only_narrowing, IMPORTANCE, fits, stairs_ms, many, journal)
    assert all(step.chosen.saved_ms > 0 for step in journal.steps)


def stairs_ms(architecture: Architecture) -> float:
    """Widths cost in steps of 64, and a hundredth of that by themselves."""
    return sum(-(-width // 64) * 64 + 0.01 * width for width in architecture.widths) / 100


def test_widths_of_one_stair_are_skipped_and_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    only_narrowing = dataclasses.replace(SPACE, min_depth=99)

    def fits(architecture: Architecture) -> bool:
        return stairs_ms(architecture) <= 2.6

    greedy(only_narrowing, IMPORTANCE, fits, stairs_ms, many, journal, allowed=("narrow_stage",))
    assert [str(step.chosen.action) for step in journal.steps] == [
        "narrow stage 3 to 64",  # 80 costs the same as 96 but for a thousandth, and so do stages 1 and 2
        "narrow stage 4 to 128",
        "narrow stage 4 to 64",
    ]
    skipped = [[str(action) for action in step.skipped] for step in journal.steps]
    narrow = "narrow stage {} to {}".format
    two = [narrow(1, 16), narrow(2, 48), narrow(2, 32), narrow(2, 16)]
    three = [narrow(3, 48), narrow(3, 32), narrow(3, 16)]
    assert skipped == [
        [*two, narrow(3, 80)],
        [*two, *three, narrow(4, 144)],
        [*two, *three, narrow(4, 112), narrow(4, 96), narrow(4, 80)],
    ]
    assert [step.skipped for step in Journal(journal.path).steps] == [step.skipped for step in journal.steps]


def test_where_nothing_saves_enough_what_saves_anything_is_taken(tmp_path: Path) -> None:
    path, goal_ms = tmp_path / "journal.jsonl", made_up_ms(SPACE.smallest())

    def fits(architecture: Architecture) -> bool:
        return made_up_ms(architecture) <= goal_ms

    greedy(SPACE, IMPORTANCE, fits, made_up_ms, many, Journal(path), tolerance=0.5)
    saved = [
        step.chosen.saved_ms / (step.chosen.predicted_ms + step.chosen.saved_ms)
        for step in Journal(path).steps
    ]
    assert min(saved) < 0.5
    assert Journal(path).architectures()[-1].widths == SPACE.smallest().widths


def test_the_options_of_a_step_are_scored_in_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(networks: Sequence[Architecture]) -> list[Score]:
        calls.append(len(networks))
        return many(networks)

    journal = Journal(tmp_path / "journal.jsonl")
    greedy(SPACE, IMPORTANCE, lambda one: made_up_ms(one) <= 1.0, made_up_ms, counted, journal)
    assert calls == [1, *(1 + len(step.turned_down) for step in journal.steps)]


def test_only_allowed_actions_are_taken(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    greedy(OPEN, IMPORTANCE, lambda one: made_up_ms(one) <= 2.0, made_up_ms, many, journal, allowed=PAPERS)
    options = [option for step in journal.steps for option in (step.chosen, *step.turned_down)]
    assert {option.action.kind for option in options} == set(PAPERS)


def test_actions_beyond_the_papers_are_offered_and_replayed(tmp_path: Path) -> None:
    def cheaper_relu_ms(architecture: Architecture) -> float:
        return made_up_ms(architecture) * (0.9 if architecture.activation == "relu" else 1.0)

    journal = Journal(tmp_path / "journal.jsonl")
    greedy(OPEN, IMPORTANCE, lambda one: cheaper_relu_ms(one) <= 1.0, cheaper_relu_ms, many, journal)
    options = [option for step in journal.steps for option in (step.chosen, *step.turned_down)]
    assert {option.action.kind for option in options} == set(ACTIONS)
    assert replay(Journal(journal.path)) == journal.architectures()


def test_importance_may_be_measured_for_each_network_of_the_path(tmp_path: Path) -> None:
    seen: list[Architecture] = []

    def measured(network: Architecture) -> Importance:
        seen.append(network)
        return Importance(
            tuple(row[::-1] for row in IMPORTANCE.positions) if len(seen) % 2 else IMPORTANCE.positions
        )

    journal = Journal(tmp_path / "journal.jsonl")
    greedy(SPACE, measured, lambda one: made_up_ms(one) <= 1.5, made_up_ms, many, journal)
    assert seen == journal.architectures()[:-1]


def test_a_branch_continues_as_the_search_it_begins_like(tmp_path: Path) -> None:
    whole = Journal(tmp_path / "journal.jsonl")
    search(whole.path, 1.0)
    whole = Journal(whole.path)
    begun = branch(whole, 3, tmp_path / "branch.jsonl")
    assert begun.architectures() == whole.architectures()[:4]
    search(begun.path, 0.6)
    search(whole.path, 0.6)
    assert begun.path.read_bytes() == whole.path.read_bytes()


def test_a_budget_that_cannot_be_reached_says_how_far_it_got(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is left to take away at"):
        search(tmp_path / "journal.jsonl", 0.0)
    assert Journal(tmp_path / "journal.jsonl").architectures()[-1].widths == SPACE.smallest().widths


def test_a_journal_of_another_space_is_refused(tmp_path: Path) -> None:
    search(tmp_path / "journal.jsonl", 2.0)
    with pytest.raises(InputError, match="belongs to another search space"):
        search(tmp_path / "journal.jsonl", 2.0, supernet_space("s", input_size=64, num_classes=10))
