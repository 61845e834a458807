import json
from pathlib import Path

import pytest

from efficientformer import InputError
from efficientformer.latency.target import Target
from efficientformer.search.journal import Found, Journal, branch, replay
from tests.pipeline import simulated
from tests.search.policies.test_greedy import SPACE, search


@pytest.fixture
def written(tmp_path: Path) -> Path:
    search(tmp_path / "journal.jsonl", 1.5)
    return tmp_path / "journal.jsonl"


def test_reading_gives_back_what_was_written(written: Path) -> None:
    journal = Journal(written)
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert journal.start is not None
    assert [journal.start.to_json(), *(step.to_json() for step in journal.steps)] == lines
    assert [step.index for step in journal.steps] == list(range(1, len(lines)))


def test_verified_networks_are_kept_and_do_not_disturb_the_path(written: Path) -> None:
    journal = Journal(written)
    last = journal.architectures()[-1]
    journal.verify(last, 1.4, simulated.receipt("net", Target(), 1.6), 1.14)
    again = Journal(written)
    assert again.measured.verified == {last: 1.6}
    assert again.measured.scale == 1.14
    assert again.architectures() == journal.architectures()
    assert replay(again) == journal.architectures()


def test_a_step_that_does_not_lead_where_it_says_is_an_error(written: Path) -> None:
    lines = written.read_text().splitlines()
    step = json.loads(lines[2])
    step["architecture"]["num_classes"] += 1
    lines[2] = json.dumps(step)
    written.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="step 2 does not lead to the architecture it names"):
        replay(Journal(written))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "damaged"),
        ('{"event": "start", "format": "other/1"}\n', "is no journal of"),
        ("[1, 2]\n", "damaged"),
        ('{"format": "efficientformer.journal/1", "event": "start"}\n', "lacks"),
    ],
)
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        Journal(path)


def test_reading_leaves_a_line_that_is_being_written_alone(written: Path) -> None:
    """Another process may look at the journal of a run at work."""
    whole = written.read_bytes()
    written.write_bytes(whole + b'{"event": "st')
    journal = Journal(written)
    assert written.read_bytes() == whole + b'{"event": "st'
    journal.verify(journal.architectures()[-1], 1.0, simulated.receipt("net", Target(), 1.0), 1.0)
    assert written.read_bytes().startswith(whole + b'{"event": "verified"')


@pytest.mark.parametrize("run", ["digits", "imagenette-96"])
def test_journals_of_version_0_1_are_read_and_replayed(run: str) -> None:
    journal = Journal(Path(__file__).parents[2] / "docs/runs" / run / "journal.jsonl")
    assert replay(journal) == journal.architectures()
    assert len(journal.steps) > 5
    assert all(step.skipped == () for step in journal.steps)
    assert journal.start is not None and journal.start.policy == "greedy"


def test_a_step_tells_what_it_saves_and_what_was_turned_down(written: Path) -> None:
    step = Journal(written).steps[0]
    one, other = step.chosen, step.turned_down[0]
    told = str(step)
    assert told.startswith(
        f"step 1: {one.action} (saves {one.saved_ms:.3f} ms, {-100 * one.drop:+.1f} points"
    )
    assert f"→ {one.predicted_ms:.3f} ms, accuracy {100 * one.accuracy:.1f} %" in told
    assert f"turned down: {other.action} (saves {other.saved_ms:.3f} ms" in told
    assert f"importance {one.action.importance:.3g}" in told
    assert "\n" not in told


def test_what_a_policy_found_is_kept_once(written: Path) -> None:
    journal = Journal(written)
    found = Found("exact", SPACE.largest, 1.5, 0.8, 0.7, 100, 93, True, 1.4, 1.6)
    journal.conclude(found)
    journal.conclude(found)
    Journal(written).conclude(found)
    again = Journal(written)
    assert again.found == [found]
    assert again.architectures() == journal.architectures()


def test_a_branch_keeps_what_was_measured_up_to_its_step(written: Path) -> None:
    journal = Journal(written)
    early, late = journal.architectures()[1], journal.architectures()[-1]
    journal.verify(early, 2.0, simulated.receipt("net", Target(), 2.2), 1.1)
    journal.verify(late, 1.4, simulated.receipt("net", Target(), 1.6), 1.2)
    begun = branch(journal, 2, written.with_name("branch.jsonl"))
    assert begun.measured.verified == {early: 2.2}
    assert begun.measured.scale == 1.1
    assert begun.steps == journal.steps[:2]
    assert branch(journal, 0, written.with_name("start.jsonl")).architectures() == [SPACE.largest]
    with pytest.raises(InputError, match="exists already"):
        branch(journal, 2, begun.path)
    with pytest.raises(InputError, match="there is no step 99"):
        branch(journal, 99, written.with_name("other.jsonl"))


def test_a_branch_leaves_out_what_was_measured_before_a_miss(written: Path) -> None:
    journal = Journal(written)
    early = journal.architectures()[1]
    journal.verify(early, 2.0, simulated.receipt("net", Target(), 9.9), 4.5)
    journal.miss(2.0)
    assert branch(journal, 2, written.with_name("none.jsonl")).measured.verified == {}
    journal.verify(early, 2.0, simulated.receipt("net", Target(), 2.2), 1.1)
    again = branch(journal, 2, written.with_name("again.jsonl"))
    assert again.measured.verified == {early: 2.2}
    assert "9.9" not in again.path.read_text()
    assert again.steps == journal.steps[:2]


def test_an_empty_journal_replays_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no search"):
        replay(Journal(tmp_path / "journal.jsonl"))
    assert Journal(tmp_path / "journal.jsonl").architectures() == []
    assert SPACE.largest.depths == (2, 2, 4, 3)
