import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.search.scores import ScoreBook, Tally
from tests.search.made_up import SPACE, score

LEFT_OUT = SPACE.largest.with_block(2, 0, "identity")
NETWORKS = [SPACE.largest, LEFT_OUT, SPACE.largest.with_block(2, 1, "identity"), SPACE.smallest()]


class Judge:
    """Scores, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Architecture] = []

    def __call__(self, networks: Sequence[Architecture]) -> list[Score]:
        self.asked += networks
        return score(networks)


def test_a_book_asks_for_each_network_once(tmp_path: Path) -> None:
    judge = Judge()
    book = ScoreBook(tmp_path / "book.jsonl", judge)
    assert book.score([*NETWORKS, *NETWORKS]) == score([*NETWORKS, *NETWORKS])
    assert book.score(NETWORKS[::-1]) == score(NETWORKS[::-1])
    assert len(judge.asked) == book.evaluations == len(book) == 4


def test_a_book_that_is_opened_again_asks_for_nothing_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    ScoreBook(path, score, of="seed 0").score(NETWORKS[:3])
    judge = Judge()
    assert ScoreBook(path, judge, of="seed 0").score(NETWORKS) == score(NETWORKS)
    assert [str(one) for one in judge.asked] == [str(NETWORKS[3])]


def test_which_blocks_are_left_out_matters_but_not_their_expansion(tmp_path: Path) -> None:
    """The same compact network inherits other weights where another block was left out."""
    assert NETWORKS[1].compact() == NETWORKS[2].compact()
    judge = Judge()
    book = ScoreBook(None, judge)
    book.score([NETWORKS[1], NETWORKS[2], LEFT_OUT.with_expansion(2, 0, 2)])
    assert len(judge.asked) == 2


@given(kept=st.floats(0, 1))
def test_a_book_cut_at_any_byte_ends_the_same(kept: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole.jsonl"), Path(folder, "cut.jsonl")
        ScoreBook(whole, score).score(NETWORKS)
        content = whole.read_bytes()
        cut.write_bytes(content[: int(kept * len(content))])
        assert ScoreBook(cut, score).score(NETWORKS) == score(NETWORKS)
        assert cut.read_bytes() == content


def test_scores_are_on_disk_before_the_next_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"

    def stopped(networks: Sequence[Architecture]) -> list[Score]:
        if len(ScoreBook(path, score)) == 3:
            raise KeyboardInterrupt
        return score(networks)

    with pytest.raises(KeyboardInterrupt):
        ScoreBook(path, stopped, batch=3).score(NETWORKS)
    assert len(ScoreBook(path, score)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "damaged"),
        ('{"format": "other/1"}\n', "is no book"),
        ('{"format": "efficientformer.scores/1", "of": "other weights"}\n', "of other weights or images"),
        ('{"format": "efficientformer.scores/1", "of": ""}\n{"top1": 1}\n', "damaged"),
        ("[1]\n", "damaged"),
    ],
)
def test_a_file_that_is_no_book_of_this_search_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "book.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        ScoreBook(path, score)


def test_a_tally_counts_what_is_asked_of_a_book_that_knows_it_already() -> None:
    book = ScoreBook(None, score)
    book.score(NETWORKS)
    tally = Tally(book.score)
    tally.score(NETWORKS[:2])
    tally.count(NETWORKS[1:3])
    assert (len(tally), book.evaluations) == (3, 4)
