"""A machine that has changed is noticed by a few files measured again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from efficientformer import InputError
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import CALL, LatencyTable
from efficientformer.latency.table.chains import Chain, name_of
from efficientformer.latency.target import Target
from tests.latency.table.made import TARGET, Drifting, chain_ms, made_up, receipt
from tests.strategies import tiny


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LatencyTable]:
    with made_up(), contextlib.closing(LatencyTable(tmp_path / "table.sqlite", TARGET)) as table:
        yield table


class Changed:
    """Everything takes so many times as long, a call at times more."""

    def __init__(self, factor: float, call: float | None = None) -> None:
        self.factor, self.call, self.asked = factor, call or factor, []

    def __call__(self, chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
        self.asked += map(name_of, chains)
        return {
            name_of(chain): receipt(chain_ms(chain) * (self.factor if chain else self.call))
            for chain in chains
        }


@pytest.mark.parametrize(
    ("factor", "told"),
    [(1.0, False), (0.91, False), (1.09, False), (1.12, True), (0.85, True), (1.29, True), (0.78, True)],
)
def test_a_machine_that_is_about_the_same_will_do(factor: float, told: bool, table: LatencyTable) -> None:
    table.fill([tiny()])
    lines: list[str] = []
    with made_up(Changed(factor)):
        assert table.check_machine(lines.append) == pytest.approx(factor)
    assert len(lines) == told
    assert all(f"{factor:.2f} times as long" in line for line in lines)


@pytest.mark.parametrize("factor", [0.5, 0.76, 1.31, 3.0])
def test_a_machine_that_has_changed_is_refused(factor: float, table: LatencyTable) -> None:
    table.fill([tiny()])
    with (
        made_up(Changed(factor)),
        pytest.raises(InputError, match="measure anew with another --table") as caught,
    ):
        table.check_machine()
    assert f"{factor:.2f} times" in str(caught.value)
    assert str(table.path) in str(caught.value)


@pytest.mark.parametrize("slow", [0.6, 1.5, 2.0])
def test_a_machine_that_is_slower_as_a_whole_is_told(slow: float, tmp_path: Path) -> None:
    lines: list[str] = []
    with contextlib.closing(LatencyTable(tmp_path / "table.sqlite", TARGET)) as table:
        with made_up(Drifting(1.0)):
            table.fill([tiny()])
        with made_up(Drifting(slow)):
            assert table.check_machine(lines.append) == pytest.approx(slow)
        assert [f"{slow:.2f} times as long" in line for line in lines] == [True]
        with made_up(Drifting(slow, reference_ms=0.4 / slow)), pytest.raises(InputError) as caught:
            table.check_machine()  # rows changed, and the reference did not
        assert f"{slow:.2f} times as long now" in str(caught.value)


def test_few_files_are_measured_and_none_is_kept(table: LatencyTable) -> None:
    table.fill([tiny()])
    before, clock = table.receipts, Changed(1.2, call=9)
    with made_up(clock):
        assert table.check_machine() == pytest.approx(1.2)  # one of three does not decide
    assert len(clock.asked) == 3
    assert clock.asked[0] == CALL
    assert table.receipts == before
    times = [before[name].median_ms for name in clock.asked]
    assert times == sorted(set(times))


def test_an_empty_table_is_of_any_machine(table: LatencyTable) -> None:
    clock = Changed(5)
    with made_up(clock):
        assert table.check_machine() == 1.0
    assert clock.asked == []
