from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest

from efficientformer.progress import Progress, clock


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock that progress reads; it starts at 1000 s."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def set_to(seconds: float) -> None:
        now[0] = 1000.0 + seconds

    return set_to


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0:00"),
        (7, "0:07"),
        (7.5001, "0:08"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (100 * 3600, "100:00:00"),
    ],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_a_stage_shows_its_lines_no_closer_than_asked(at: Callable[[float], None]) -> None:
    stream = io.StringIO()
    progress = Progress(stream, every_s=5)
    progress.stage("training")
    for done in range(1, 21):
        at(done)
        progress.update(done, 20, "loss 1.0")
    title, *lines = stream.getvalue().splitlines()
    assert title == "── training"
    assert [line.split(" · ")[1] for line in lines] == ["1/20", "6/20", "11/20", "16/20", "20/20"]


def test_the_estimate_is_the_rate_times_what_is_left(at: Callable[[float], None]) -> None:
    stream = io.StringIO()
    progress = Progress(stream, every_s=0)
    progress.stage("work")
    progress.update(0, 100, "row")
    at(30)
    progress.update(10, 100, "row")  # 3 s each, 90 to go
    assert stream.getvalue().splitlines()[1:] == ["   row · 0/100", "   row · 10/100 · 4:30 left"]


def test_a_resumed_stage_does_not_count_what_was_done_before(at: Callable[[float], None]) -> None:
    stream = io.StringIO()
    progress = Progress(stream, every_s=0)
    progress.stage("work")
    progress.update(90, 100, "row")
    at(20)
    progress.update(95, 100, "row")  # 5 in 20 s, 5 to go
    assert stream.getvalue().splitlines()[-1] == "   row · 95/100 · 0:20 left"


def test_the_last_update_is_always_shown_and_has_no_estimate(at: Callable[[float], None]) -> None:
    stream = io.StringIO()
    progress = Progress(stream, every_s=100)
    progress.stage("work")
    progress.update(1, 3, "row")
    at(1)
    progress.update(2, 3, "row")
    progress.update(3, 3, "row")
    assert stream.getvalue().splitlines()[1:] == ["   row · 1/3", "   row · 3/3"]


def test_a_new_stage_starts_a_new_estimate(at: Callable[[float], None]) -> None:
    stream = io.StringIO()
    progress = Progress(stream, every_s=0)
    progress.stage("first")
    progress.update(0, 2, "row")
    at(1000)
    progress.stage("second")
    progress.update(0, 10, "row")
    at(1010)
    progress.update(5, 10, "row")
    assert stream.getvalue().splitlines()[-1] == "   row · 5/10 · 0:10 left"


def test_a_stage_that_counts_again_starts_a_new_estimate(at: Callable[[float], None]) -> None:
    stream = io.StringIO()
    progress = Progress(stream, every_s=0)
    progress.stage("searching")
    progress.update(10, 10, "first network")
    at(1000)  # it was measured meanwhile
    progress.update(2, 10, "second network")
    at(1010)
    progress.update(4, 10, "second network")
    assert stream.getvalue().splitlines()[2:] == [
        "   second network · 2/10",
        "   second network · 4/10 · 0:30 left",
    ]


def test_standard_error_is_where_it_writes_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.line("text")
    assert capsys.readouterr() == ("", "text\n")


def test_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(None)
    progress.stage("work")
    progress.line("text")
    progress.update(1, 1, "row")
    assert capsys.readouterr() == ("", "")
