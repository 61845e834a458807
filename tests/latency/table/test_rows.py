"""Filling and interpolating on a made-up clock."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from efficientformer import InputError, Layer
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import LatencyTable, rows
from efficientformer.latency.table.chains import Chain, name_of
from efficientformer.latency.target import Target
from tests.latency.table.made import TARGET, Drifting, chain_ms, fake_chains, fake_ms, made_up, receipt
from tests.strategies import tiny


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LatencyTable]:
    with made_up(), contextlib.closing(LatencyTable(tmp_path / "table.sqlite", TARGET)) as table:
        yield table


def pool(width: int) -> Layer:
    return Layer("pool", width, width, 8, 8, 4, "gelu")


def bent_ms(layer: Layer) -> float:
    """Grows with the cube of the width, too: no parabola meets it."""
    return fake_ms(layer) + 1e-7 * layer.in_width**3


def bent_chains(chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
    return {
        name_of(chain): receipt(chain_ms(chain) + sum(bent_ms(one) - fake_ms(one) for one in chain), 1e-6)
        for chain in chains
    }


GRID = [pool(width) for width in (16, 32, 48, 64, 96)]


def test_interpolation_is_off_until_it_is_allowed(table: LatencyTable) -> None:
    table.fill_layers(GRID)
    assert table.missing_layers([pool(80)]) == [pool(80)]
    with pytest.raises(InputError, match=r"has no row for pool 80 @8×8; fill"):
        table.layer_ms(pool(80))
    table.may_interpolate = True
    assert table.missing_layers([pool(80), pool(112)]) == [pool(112)]
    with pytest.raises(InputError, match=r"has no row for pool 112 @8×8 or of widths around it; fill"):
        table.layer_ms(pool(112))


def test_an_interpolated_row_lies_between_and_says_how_far_it_may_be_off(table: LatencyTable) -> None:
    table.may_interpolate = True
    with made_up(bent_chains):
        table.fill_layers(GRID)
    row = table.row(pool(80))
    assert row.interpolated
    assert bent_ms(pool(64)) < row.ms < bent_ms(pool(96))
    assert 0 < abs(row.ms - bent_ms(pool(80))) < row.plus_minus_ms
    assert row.plus_minus_ms > 2 * table.row(pool(64)).plus_minus_ms
    assert not table.row(pool(64)).interpolated
    assert pool(80) not in table.rows()
    table.may_interpolate = False
    with pytest.raises(InputError, match="has no row for pool 80"):
        table.row(pool(80))


def test_a_measured_row_replaces_an_interpolated_one(table: LatencyTable) -> None:
    table.may_interpolate = True
    with made_up(bent_chains):
        table.fill_layers(GRID)
        between = table.layer_ms(pool(80))
        table.may_interpolate = False
        assert table.fill_layers([pool(80)]) == 1
    table.may_interpolate = True
    assert table.layer_ms(pool(80)) == pytest.approx(bent_ms(pool(80))) != between


def test_too_few_rows_are_not_interpolated(table: LatencyTable) -> None:
    table.may_interpolate = True
    table.fill_layers([pool(16), pool(96)])
    assert table.missing_layers([pool(32)]) == [pool(32)]  # nothing tells how far it would be off
    assert table.fill_layers([pool(32)]) == 1


def test_a_network_with_interpolated_layers_is_less_certain(table: LatencyTable) -> None:
    around = [tiny().with_width(3, width) for width in (8, 16, 24, 32, 40)]
    with made_up(bent_chains):
        table.fill(around)
    exact = table.predict(around[2]).plus_minus_ms
    table.may_interpolate = True
    between = tiny().with_width(3, 28)
    assert table.missing_layers(between.layers()) == []
    assert table.predict(between).plus_minus_ms > exact
    assert table.predict(around[2]).plus_minus_ms == exact


class Guarded:
    """Measures with a fixed piece of work that took so long, one figure a call."""

    def __init__(self, *guards_ms: float) -> None:
        self.guards, self.calls = list(guards_ms), 0

    def __call__(self, chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
        guard, self.calls = self.guards[self.calls], self.calls + 1
        return {
            name: dataclasses.replace(one, model=f"take {self.calls}").under(sentinel_ms=(guard, guard))
            for name, one in fake_chains(chains, target).items()
        }


@pytest.mark.parametrize(
    ("guards", "kept"),
    [
        ((1.0, 1.05), 2),  # the second batch is as quiet as the first
        ((1.0, 1.5, 1.0), 3),  # it is not: taken again
        ((1.0, 1.5, 1.9), 2),  # and that is no better: the first try stays
        ((1.0, 0.5), 2),
    ],
)
def test_a_batch_in_a_slow_spell_is_taken_again(
    guards: tuple[float, ...], kept: int, table: LatencyTable
) -> None:
    clock = Guarded(*guards)
    with made_up(clock):
        table.fill_layers([pool(16)])
        table.fill_layers([pool(32)])
    assert clock.calls == len(guards)
    new = [one for name, one in table.receipts.items() if '"in_width":32' in name]
    assert {one.model for one in new} == {f"take {kept}"}
    assert {one.conditions.tries for one in new} == {len(guards) - 1}


def test_rows_are_those_of_one_speed(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BATCH", 3)
    clock = Drifting(1.0, 1.4, 0.8)
    with made_up(clock):
        table.fill_layers(GRID)
    assert clock.batches == 3
    assert [table.layer_ms(one) for one in GRID] == pytest.approx(list(map(fake_ms, GRID)))
    slow = table.receipts[name_of((GRID[1],))]
    assert slow.median_ms == pytest.approx(1.4 * chain_ms((GRID[1],)))  # receipts stay as they were taken


def test_the_speed_is_kept_with_the_rows(table: LatencyTable, tmp_path: Path) -> None:
    with made_up(Drifting(1.0)):
        table.fill_layers(GRID[:2])
    with (
        made_up(Drifting(1.7)),
        contextlib.closing(LatencyTable(tmp_path / "table.sqlite", TARGET)) as again,
    ):
        again.fill_layers(GRID[2:])
        assert [again.layer_ms(one) for one in GRID] == pytest.approx(list(map(fake_ms, GRID)))


def test_how_long_filling_takes_is_known_from_the_pace(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(rows.time, "perf_counter", lambda: next(now))
    assert table.seconds_needed(GRID) is None
    table.fill_layers(GRID[:1])  # a call, one and three: three files in ten seconds
    assert table.pace("file") == pytest.approx(10 / 3)
    assert table.seconds_needed(GRID) == pytest.approx(8 * 10 / 3)
    assert table.seconds_needed(GRID[:1]) == 0
