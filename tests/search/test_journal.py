import json
from pathlib import Path

import pytest

from efficientformer import InputError
from efficientformer.latency.target import Target
from efficientformer.search.journal import Journal, replay
from tests.pipeline import simulated
from tests.search.test_slimming import SPACE, search


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
    assert again.verified == {last: 1.6}
    assert again.scale == 1.14
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


def test_an_empty_journal_replays_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no search"):
        replay(Journal(tmp_path / "journal.jsonl"))
    assert Journal(tmp_path / "journal.jsonl").architectures() == []
    assert SPACE.largest.depths == (2, 2, 4, 3)
