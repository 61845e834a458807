"""The search by itself, with a made-up latency and a made-up accuracy; nothing here is measured."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.search.importance import Importance
from efficientformer.search.journal import Journal, replay
from efficientformer.search.slimming import slim
from efficientformer.search.space import SearchSpace, supernet_space

SPACE = supernet_space("xs", input_size=64, num_classes=10)
IMPORTANCE = Importance(((3.0, 1.0), (2.0, 4.0), (1.5, 6.0, 2.5, 5.0), (7.0, 0.5, 8.0)))


def made_up_ms(architecture: Architecture) -> float:
    return architecture.macs / 1e7


def made_up_score(architecture: Architecture) -> Score:
    attention = sum(block.kind == "attention" for stage in architecture.stages for block in stage.blocks)
    accuracy = 0.5 + 0.04 * attention + 0.01 * sum(architecture.depths) + 0.0003 * sum(architecture.widths)
    return Score(min(1.0, accuracy), 1 - accuracy, 100)


def search(path: Path, goal_ms: float, space: SearchSpace = SPACE) -> Architecture:
    def fits(architecture: Architecture) -> bool:
        return made_up_ms(architecture) <= goal_ms

    return slim(space, IMPORTANCE, fits, made_up_ms, made_up_score, Journal(path))


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

    def better(architecture: Architecture) -> Score:
        return Score(1 - architecture.macs / 1e9, architecture.macs / 1e9, 100)

    def fits(architecture: Architecture) -> bool:
        return made_up_ms(architecture) <= 2.0

    journal = Journal(tmp_path / "journal.jsonl")
    slim(SPACE, IMPORTANCE, fits, made_up_ms, better, journal)
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
    slim(only_narrowing, IMPORTANCE, fits, stairs_ms, made_up_score, journal)
    assert all(step.chosen.saved_ms > 0 for step in journal.steps)


def test_a_budget_that_cannot_be_reached_says_how_far_it_got(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is left to take away at"):
        search(tmp_path / "journal.jsonl", 0.0)
    assert Journal(tmp_path / "journal.jsonl").architectures()[-1].widths == SPACE.smallest().widths


def test_a_journal_of_another_space_is_refused(tmp_path: Path) -> None:
    search(tmp_path / "journal.jsonl", 2.0)
    with pytest.raises(InputError, match="belongs to another search space"):
        search(tmp_path / "journal.jsonl", 2.0, supernet_space("s", input_size=64, num_classes=10))
