"""`table build` and `table audit` on a made-up clock: what is measured, what not twice, what is refused."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from efficientformer import Architecture, Block, InputError, Stage
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import LatencyTable
from efficientformer.latency.table.interpolate import sub_grid
from efficientformer.latency.target import Target
from efficientformer.pipeline import table_job
from efficientformer.progress import Progress
from efficientformer.search.space.search_space import SearchSpace, supernet_space
from tests.latency.table.made import CALL_MS, TARGET, Drifting, fake_chains, fake_ms, made_up, receipt

SILENT = Progress(None)


def small() -> SearchSpace:
    space = supernet_space("xs", input_size=32, num_classes=3, kinds=("pool", "ffn", "attention"))
    return dataclasses.replace(space, min_width=32)


def network_ms(architecture: Architecture) -> float:
    """Slower than the sum of its rows, attention more so; but each layer has something less."""
    rows = sum((1.2 if one.kind == "attention" else 1.1) * fake_ms(one) for one in architecture.layers())
    return CALL_MS + rows - 0.002 * len(architecture.layers())


class Clock:
    """Whole networks on a made-up clock; keeps what it was asked for, and may stop."""

    def __init__(self, batches: int = 1000) -> None:
        self.left, self.asked = batches, []

    def __call__(self, networks: Sequence[Architecture], target: Target) -> dict[Architecture, Measurement]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += networks
        return {one: receipt(network_ms(one)).under(reference_ms=0.5) for one in networks}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(table_job, "time_networks", clock)
    with made_up():
        yield clock


def build(path: Path, **options: Any) -> table_job.Built:
    return table_job.build(small(), path, TARGET, progress=SILENT, **options)


def test_a_built_table_predicts_what_it_has_not_seen(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    built = build(path)
    assert built.added == built.rows >= len(sub_grid(small().layers()))
    assert built.fit.networks == table_job.CALIBRATION == len(clock.asked)
    assert built.fit.factor("attention") > built.fit.factor("pool")
    found = table_job.audit(path, TARGET, networks=20, progress=SILENT)
    assert found.median_error < 0.01
    assert found.max_error < 0.03
    assert found.spearman > 0.99
    held = [one.architecture for one in found.held]
    assert len(set(held)) == 20
    assert not set(held) & set(clock.asked[: table_job.CALIBRATION])


def test_a_machine_that_drifts_is_predicted_at_one_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every batch of rows and of networks meets another machine; the reference network tells how fast."""
    path, slow = tmp_path / "table.sqlite", itertools.cycle((1.0, 1.3, 0.9, 1.1))

    def timed(networks: Sequence[Architecture], target: Target) -> dict[Architecture, Measurement]:
        now = next(slow)
        return {one: receipt(now * network_ms(one)).under(reference_ms=now * 0.5) for one in networks}

    monkeypatch.setattr(table_job, "time_networks", timed)
    with made_up(Drifting(1.0, 1.4, 0.8, 1.2)):
        build(path)
        found = table_job.audit(path, TARGET, networks=40, progress=SILENT)
    assert found.median_error < 0.01
    assert found.max_error < 0.03
    assert found.raw()["max_error_percent"] > 10
    assert found.fit.reference_ms == pytest.approx(0.5 * 1.0, rel=0.31)


@pytest.mark.slow
def test_networks_are_timed_beside_the_reference() -> None:
    networks = [small().smallest().compact(), small().largest]
    taken = table_job.time_networks(networks, TARGET)
    assert list(taken) == networks
    (reference_ms,) = {one.conditions.reference_ms for one in taken.values()}
    assert reference_ms is not None
    assert 0.1 < reference_ms / taken[small().largest].median_ms < 10


def test_every_network_of_the_space_is_predicted_without_more_rows(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    build(path)
    table = table_job.open_built(path, TARGET)
    layers = small().layers()
    assert len(table.rows()) < len(layers)
    assert table.missing_layers(layers) == []
    assert table_job.space_of(table) == small()
    for layer in layers:  # what is bilinear is met exactly
        assert table.layer_ms(layer) == pytest.approx(fake_ms(layer))
    table.close()


def test_a_stopped_build_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole, parts, asked = tmp_path / "whole.sqlite", tmp_path / "parts.sqlite", []

    def counted(chains: Sequence[Any], target: Target) -> dict[str, Measurement]:
        asked.extend(chains)
        return fake_chains(chains, target)

    monkeypatch.setattr(table_job, "_TOGETHER", 5)
    with made_up(counted):
        stopping = Clock(batches=1)
        monkeypatch.setattr(table_job, "time_networks", stopping)
        with pytest.raises(KeyboardInterrupt):
            build(parts)
        with pytest.raises(InputError, match=r"no build for .* is finished"):
            table_job.open_built(parts, TARGET)
        first, going_on = len(asked), Clock()
        monkeypatch.setattr(table_job, "time_networks", going_on)
        resumed = build(parts)
        assert resumed.added == 0
        assert len(asked) == first + 3  # the sentinel's three files, and no row
        assert len(stopping.asked + going_on.asked) == table_job.CALIBRATION
        monkeypatch.setattr(table_job, "time_networks", Clock())
        assert build(whole).fit == resumed.fit


def test_an_audit_does_not_measure_twice_and_a_seed_draws_anew(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    build(path)

    def held(seed: int) -> list[Architecture]:
        found = table_job.audit(path, TARGET, networks=6, seed=seed, progress=SILENT)
        return [one.architecture for one in found.held]

    before = len(clock.asked)
    first = held(1)
    assert held(1) == first
    assert len(clock.asked) == before + 6
    assert held(2) != first


def test_networks_timed_without_the_reference_are_measured_again(clock: Clock, tmp_path: Path) -> None:
    """A run of `slim` has kept the largest network's receipt in the file, of another speed perhaps."""
    path = tmp_path / "table.sqlite"
    table = LatencyTable(path, TARGET)
    table.add_networks({small().largest.compact(): receipt(99.0)})
    table.close()
    built = build(path)
    assert built.fit.reference_ms == 0.5
    assert built.fit.residual < 0.03
    assert small().largest.compact() in clock.asked


def test_how_long_it_will_take_is_said_before(clock: Clock, tmp_path: Path) -> None:
    told = io.StringIO()
    table_job.build(small(), tmp_path / "table.sqlite", TARGET, progress=Progress(told))
    lines = told.getvalue().splitlines()
    assert "rows and 20 whole networks to measure on onnxruntime" in lines[0]
    assert lines[1].lstrip().startswith("about ")
    assert " files" in lines[1]


def test_a_build_needs_some_networks(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    with pytest.raises(InputError, match="--networks must be at least 5, not 4"):
        build(path, networks=4)
    assert not path.exists()


def test_precisions_are_built_side_by_side_in_one_file(clock: Clock, tmp_path: Path) -> None:
    path, int8 = tmp_path / "table.sqlite", Target(precision="int8")
    rows = build(path).rows
    asked = len(clock.asked)
    built = table_job.build(small(), path, int8, progress=SILENT)
    assert (built.rows, built.added, len(clock.asked)) == (rows, rows, 2 * asked)
    found = table_job.audit(path, int8, networks=6, progress=SILENT)
    assert found.target == str(int8)
    assert found.median_error < 0.01


def test_an_audit_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table; `efficientformer table build` makes it"):
        table_job.audit(tmp_path / "absent.sqlite", TARGET)
    assert not (tmp_path / "absent.sqlite").exists()
    LatencyTable(tmp_path / "empty.sqlite", TARGET).close()
    with pytest.raises(InputError, match="has no rows for"):
        table_job.audit(tmp_path / "empty.sqlite", TARGET)


def test_a_space_with_too_few_networks_is_named(clock: Clock, tmp_path: Path) -> None:
    stages = tuple(Stage(width, (Block("pool"),)) for width in (8, 16, 16, 32))
    one = SearchSpace(Architecture(stages, (32, 32), distilled=False), kinds=("pool",), min_width=32)
    with pytest.raises(InputError, match="the space has no 20 different networks; ask for fewer --networks"):
        table_job.build(one, tmp_path / "table.sqlite", TARGET, progress=SILENT)
