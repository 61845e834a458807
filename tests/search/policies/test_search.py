from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from efficientformer import InputError
from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.search.journal import Journal, replay
from efficientformer.search.policies.candidates import Candidate
from efficientformer.search.policies.search import BY_WINDOW, POLICIES, Problem, go_on, search
from efficientformer.search.scores import ScoreBook
from efficientformer.search.space.costs import EmptyWindowError, Window, predicted_ms
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import supernet_space
from tests.search.made_up import CHOICES, SPACE, VALUES, MacsCosts, by_removal, score, score_one

TOP = predicted_ms(MacsCosts(), SPACE.largest)
WINDOW = Window(0.95 * 0.5 * TOP, 0.99 * 0.5 * TOP)
EACH = pytest.mark.parametrize("policy", POLICIES)


class Stopping:
    """Scores some networks, then is interrupted."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __call__(self, networks: Sequence[Architecture]) -> list[Score]:
        self._left -= len(networks)
        if self._left < 0:
            raise KeyboardInterrupt
        return score(networks)


def problem(folder: Path, score_many=score, **fields) -> Problem:
    book = ScoreBook(folder / "scores.jsonl", score_many)
    journal = Journal(folder / "journal.jsonl")
    return Problem(SPACE, MacsCosts(), book, VALUES.importance(), by_removal, journal, **fields)


@EACH
def test_every_policy_finds_a_network_of_the_window(tmp_path: Path, policy: str) -> None:
    found = search(policy, problem(tmp_path), WINDOW, evaluations=64, refine=32)
    assert found.in_window and WINDOW.holds(found.predicted_ms)
    assert found.predicted_ms == predicted_ms(MacsCosts(), found.architecture)
    assert CHOICES.holds(found.architecture)
    assert (found.top1, found.loss) == (
        score_one(found.architecture).top1,
        score_one(found.architecture).loss,
    )
    assert Journal(tmp_path / "journal.jsonl").found == [found]
    assert f"{policy}: " in str(found) and "outside" not in str(found)


@pytest.mark.parametrize("policy", BY_WINDOW)
def test_moved_into_another_window_all_that_was_scored_is_counted(tmp_path: Path, policy: str) -> None:
    asked = problem(tmp_path)
    found = search(policy, asked, WINDOW, evaluations=24)
    lower = Window(0.9 * WINDOW.low_ms, 0.9 * WINDOW.high_ms)
    moved = go_on(found, asked, lower, refine=32)
    assert moved.in_window and moved.searched
    assert found.evaluations == 24 < moved.evaluations
    assert Journal(tmp_path / "journal.jsonl").found == [found, moved]


@pytest.mark.parametrize("policy", BY_WINDOW)
def test_a_window_without_networks_was_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    def nothing(choices: object, costs: object, window: Window, *rest: object) -> Candidate:
        raise EmptyWindowError(window)

    monkeypatch.setitem(BY_WINDOW, policy, nothing)
    found = search(policy, problem(tmp_path), WINDOW)
    assert not found.searched and found.predicted_ms <= WINDOW.high_ms
    assert Journal(tmp_path / "journal.jsonl").found == [found]


def test_a_window_that_only_smaller_images_come_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was drawn there: no change of a block leads there from the largest network."""
    space = supernet_space("xs", input_size=96, num_classes=10, input_sizes=(32,))
    (smallest,) = space.smallest_ones()
    least = predicted_ms(MacsCosts(), smallest)

    def by_macs(networks: Sequence[Architecture]) -> list[Score]:
        return [Score(0.5, 1e9 / one.macs, 100) for one in networks]

    def nothing(choices: object, costs: object, window: Window, *rest: object) -> Candidate:
        raise EmptyWindowError(window)

    monkeypatch.setitem(BY_WINDOW, "random", nothing)
    book, journal = ScoreBook(tmp_path / "scores.jsonl", by_macs), Journal(tmp_path / "journal.jsonl")
    importance = Importance(tuple((0.1,) * len(stage.blocks) for stage in space.largest.stages))
    asked = Problem(space, MacsCosts(), book, importance, by_removal, journal)
    found = search("random", asked, Window(least, 1.0001 * least), evaluations=16)
    assert found.architecture.compact() == smallest.compact()


@EACH
def test_run_again_it_finds_the_same_and_scores_nothing(tmp_path: Path, policy: str) -> None:
    first = problem(tmp_path)
    found = search(policy, first, WINDOW, evaluations=64, refine=8)
    assert found.evaluations == first.book.evaluations == len(first.book)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = problem(tmp_path)
    assert search(policy, again, WINDOW, evaluations=64, refine=8) == found
    assert again.book.evaluations == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@EACH
def test_stopped_at_any_score_it_ends_the_same(tmp_path: Path, policy: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    found = search(policy, problem(whole), WINDOW, evaluations=48, refine=8)
    stops = 0
    while True:
        try:
            again = search(policy, problem(cut, Stopping(20)), WINDOW, evaluations=48, refine=8)
        except KeyboardInterrupt:
            stops += 1
        else:
            break
    assert stops >= 1
    assert again == found
    for name in ("scores.jsonl", "journal.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@EACH
def test_several_processes_that_share_the_scoring_take_the_same_decisions(
    tmp_path: Path, policy: str
) -> None:
    """Each scores every other candidate; here the halves are put together as `all_gather` would."""

    def halves(networks):
        parts = [score(networks[rank::2]) for rank in range(2)]
        return [parts[index % 2][index // 2] for index in range(len(networks))]

    one, two = tmp_path / "one", tmp_path / "two"
    assert search(policy, problem(one), WINDOW, evaluations=48) == search(
        policy, problem(two, halves), WINDOW, evaluations=48
    )
    assert (one / "journal.jsonl").read_bytes() == (two / "journal.jsonl").read_bytes()


def test_the_exact_choice_is_better_than_the_greedy(tmp_path: Path) -> None:
    greedy = search("greedy", problem(tmp_path / "greedy"), WINDOW, refine=32)
    exact = search("exact", problem(tmp_path / "exact"), WINDOW)
    assert exact.loss < greedy.loss


def test_searches_of_the_window_cost_what_they_may(tmp_path: Path) -> None:
    for policy in BY_WINDOW:
        assert search(policy, problem(tmp_path / policy), WINDOW, evaluations=37).evaluations == 37


def test_the_greedy_paths_steps_lead_to_what_is_found(tmp_path: Path) -> None:
    found = search("greedy", problem(tmp_path), WINDOW)
    path = replay(Journal(tmp_path / "journal.jsonl"))
    assert path[-1] == found.architecture
    assert predicted_ms(MacsCosts(), path[-2]) > WINDOW.high_ms >= found.predicted_ms


def test_importance_measured_anew_changes_what_is_chosen(tmp_path: Path) -> None:
    paths = []
    for policy in ("greedy", "greedy-remeasured"):
        search(policy, problem(tmp_path / policy), WINDOW)
        paths.append(Journal(tmp_path / policy / "journal.jsonl").steps)
    scores = {step.chosen.action.importance for step in paths[1]}
    assert [step.chosen.action for step in paths[0]] != [step.chosen.action for step in paths[1]]
    assert len(scores) > 3


@EACH
def test_a_window_over_all_networks_gives_what_lies_below(tmp_path: Path, policy: str) -> None:
    found = search(policy, problem(tmp_path), Window(2.5 * TOP, 3 * TOP), evaluations=20)
    assert not found.in_window
    assert "outside of" in str(found)
    assert 0.9 * TOP <= found.predicted_ms < 2.5 * TOP
    assert CHOICES.holds(found.architecture)


def test_a_journal_belongs_to_one_policy(tmp_path: Path) -> None:
    search("random", problem(tmp_path), WINDOW, evaluations=3)
    with pytest.raises(InputError, match="belongs to policy random, not greedy"):
        search("greedy", problem(tmp_path), WINDOW)


def test_an_unknown_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown policy 'best'; known: greedy, "):
        search("best", problem(tmp_path), WINDOW)


_ALONE = """
import sys
from pathlib import Path
from efficientformer.search.policies.search import POLICIES, search
from tests.search.policies.test_search import WINDOW, problem
for policy in POLICIES:
    print(search(policy, problem(Path(sys.argv[1]) / policy), WINDOW, evaluations=40, refine=8))
"""


@pytest.mark.slow
def test_neither_hash_seeds_nor_threads_decide(tmp_path: Path) -> None:
    told = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        command = [sys.executable, "-c", _ALONE, str(tmp_path / seed)]
        root = Path(__file__).parents[3]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        journals = {
            path.relative_to(tmp_path / seed): path.read_bytes()
            for path in sorted(tmp_path.rglob(f"{seed}/*/*"))
        }
        told.append((done.stdout, journals))
    assert told[0] == told[1]
    assert told[0][0].count("\n") == len(POLICIES) == len(told[0][1]) / 2
