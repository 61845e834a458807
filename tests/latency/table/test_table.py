from __future__ import annotations

import contextlib
import dataclasses
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from efficientformer import Architecture, InputError
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import CALL, Fit, LatencyTable, rows, store
from efficientformer.latency.table.chains import EMPTY, Chain, measure_chains, name_of, recipe
from efficientformer.latency.target import Target
from tests.latency.table.made import CALL_MS, TARGET, Open, fake_chains, fake_ms, made_up, opened_in, receipt
from tests.strategies import architectures, tiny


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_measured() -> Iterator[None]:
    with made_up():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "table.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:
        yield opened_in(stack, path)


@pytest.fixture
def table(opened: Open) -> LatencyTable:
    return opened()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatencyTable]:
    """One table for all of hypothesis's examples."""
    path = tmp_path_factory.mktemp("examples") / "table.sqlite"
    with contextlib.closing(LatencyTable(path, TARGET)) as table:
        yield table


def wide(index: int) -> Architecture:
    return tiny().with_width(3, 16 + 2 * index)


# Filling


def files_of(architecture: Architecture) -> set[str]:
    return {name_of(chain) for layer in architecture.layers() for chain in (EMPTY, *recipe(layer))}


def test_filling_measures_what_is_missing_once(table: LatencyTable) -> None:
    assert table.rows() == {}
    layers = set(tiny().layers())
    assert table.fill([tiny(), tiny()]) == len(layers)
    assert set(table.rows()) == layers
    assert set(table.receipts) == files_of(tiny())
    assert table.missing_layers(tiny().layers()) == []
    assert table.fill([tiny()]) == 0
    new = table.missing_layers([*tiny().layers(), *wide(1).layers()])
    assert new == [layer for layer in wide(1).layers() if layer not in layers]
    assert table.fill([tiny(), wide(1)]) == len(new)


class Stopping:
    """Measures a few batches, then is interrupted; keeps what it was asked for."""

    def __init__(self, batches: int) -> None:
        self.left, self.asked = batches, []

    def __call__(self, chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += map(name_of, chains)
        return fake_chains(chains, target)


def test_a_stopped_fill_goes_on_where_it_was(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BATCH", 6)
    first, second = Stopping(2), Stopping(100)
    with made_up(first), pytest.raises(KeyboardInterrupt):
        opened().fill([tiny()])
    with made_up(second):
        table = opened()
        there = len(table.rows())
        assert 0 < there < len(set(tiny().layers()))
        assert table.fill([tiny()]) == len(set(tiny().layers())) - there
    assert sorted(first.asked + second.asked) == sorted(files_of(tiny()))  # each one once


def test_progress_is_told_after_each_batch(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BATCH", 6)
    total, told, kept = len(set(tiny().layers())), [], []
    table.fill([tiny()], lambda done, of: (told.append((done, of)), kept.append(len(table.rows()))))
    assert told == [(done, total) for done in kept]
    assert len(told) > 2
    assert told[-1] == (total, total)


def test_rows_are_the_same_after_reopening(table: LatencyTable, opened: Open) -> None:
    table.fill([tiny()])
    again = opened()
    assert again.rows() == table.rows()
    assert again.receipts == table.receipts
    assert again.predict(tiny()) == table.predict(tiny())


def test_targets_share_a_file_but_no_rows(table: LatencyTable, opened: Open) -> None:
    table.fill([tiny()])
    other = opened(Target(threads=2))
    assert len(other.rows()) == 0
    other.fill([wide(1)])
    assert opened().rows() == table.rows()


# What is refused


@pytest.mark.parametrize(
    ("key", "there"),
    [
        ("processor", "Other CPU"),
        ("cores", "64"),
        ("system", "Plan 9"),
        ("runtime", "onnxruntime 0.1"),
        ("exporter", "torch 1.0"),
    ],
)
def test_a_table_of_another_machine_or_version_is_refused(
    key: str, there: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fingerprint(TARGET)
    with monkeypatch.context() as patched:
        patched.setattr(store, "fingerprint", lambda _: here | {key: there})
        table = LatencyTable(path, TARGET)
        table.fill([tiny()])
        table.close()
    with pytest.raises(InputError, match=f"measured on another {key}") as caught:
        LatencyTable(path, TARGET)
    message = str(caught.value)
    assert all(part in message for part in (str(path), there, here[key], "--table"))
    assert "\n" not in message


def text_file(path: Path) -> None:
    path.write_text("layer,milliseconds\nstem,0.3\n" * 100)


def folder(path: Path) -> None:
    path.mkdir()


def other_about(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE about (author TEXT)")
    database.commit()
    database.close()


def other_format(path: Path) -> None:
    LatencyTable(path, TARGET).close()
    database = sqlite3.connect(path)
    database.execute("UPDATE about SET value = 'efficientformer.latency-table/1' WHERE key = 'format'")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (text_file, "is no latency table"),
        (folder, "is no latency table"),
        (other_about, "is no latency table"),
        (other_format, "is a table of format 'efficientformer.latency-table/1'"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.sqlite"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        LatencyTable(path, TARGET)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "contacts.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE people (name TEXT)")
    database.commit()
    database.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="another program's database; give another --table"):
        LatencyTable(path, TARGET)
    assert path.read_bytes() == before


def test_a_refused_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            closed.append(True)
            super().close()

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, factory=Watched))
    text_file(tmp_path / "table.sqlite")
    with pytest.raises(InputError):
        LatencyTable(tmp_path / "table.sqlite", TARGET)
    assert closed


# Predicting


@given(architecture=architectures())
def test_a_prediction_is_one_call_and_each_layers_share(
    architecture: Architecture, examples: LatencyTable
) -> None:
    examples.fill([architecture])
    expected = CALL_MS + sum(map(fake_ms, architecture.layers()))  # no border is left in it
    assert examples.predict(architecture).ms == pytest.approx(expected)


@settings(max_examples=25)
@given(architecture=architectures(), measured_ms=st.floats(0.1, 10))
def test_slimming_never_raises_a_prediction(
    architecture: Architecture, measured_ms: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    smaller = [
        architecture.with_block(stage, position, "identity")
        for stage in range(4)
        for position in range(len(architecture.stages[stage].blocks))
    ] + [
        architecture.with_width(stage, width - 2)
        for stage, width in enumerate(architecture.widths)
        if width > 3
    ]
    assume(smaller)
    path = tmp_path_factory.mktemp("slimming") / "table.sqlite"
    with contextlib.closing(LatencyTable(path, TARGET)) as table:
        table.fill([architecture, *smaller])
        table.calibrate({architecture: receipt(measured_ms)})
        ms = table.predict(architecture).ms
        assert all(table.predict(one).ms <= ms * (1 + 1e-12) for one in smaller)


@given(architecture=architectures(), scale=st.floats(0.5, 2))
def test_a_prediction_is_the_base_and_the_costs_of_layers(
    architecture: Architecture, scale: float, examples: LatencyTable
) -> None:
    examples.fill([architecture])
    examples.calibrate({architecture: receipt(1.0)})
    examples.scale = scale
    costs = [examples.cost_ms(layer) for layer in architecture.layers()]
    assert min(costs) >= 0
    assert examples.predict(architecture).ms == examples.base_ms + sum(costs)
    examples.fit, examples.scale = Fit(), 1.0


def test_a_row_is_always_above_nothing(table: LatencyTable) -> None:
    def all_alike(chains: Sequence[Chain], _: Target) -> dict[str, Measurement]:
        return {name_of(chain): receipt(0.003) for chain in chains}

    with made_up(all_alike):
        table.fill([tiny()])
    blocks = [layer for layer in tiny().layers() if layer.kind in ("pool", "attention")]
    assert {table.layer_ms(layer) for layer in blocks} == {rows.LEAST_MS}
    assert table.predict(tiny()).ms > 0.003


def propagated(table: LatencyTable, architecture: Architecture) -> float:
    """What the prediction's uncertainty is if each file errs by half its interval, on its own."""
    before, effects = table.predict(architecture).ms, []
    for name, one in table.receipts.items():
        low, high = one.interval_ms
        slower = tuple(sample + (high - low) / 2 for sample in one.samples_ms)
        table.add({name: dataclasses.replace(one, samples_ms=slower)})
        effects.append(table.predict(architecture).ms - before)
        table.add({name: one})
    return math.hypot(*effects)


def test_files_err_independently_and_equal_layers_alike(table: LatencyTable) -> None:
    twice = tiny().with_block(1, 0, "pool")  # two equal layers in a stage
    table.fill([twice])
    table.add({CALL: receipt(CALL_MS, 0.002)})
    assert propagated(table, twice) > 0.001
    assert table.predict(twice).plus_minus_ms == pytest.approx(propagated(table, twice))


def test_what_the_calibration_leaves_over_is_part_of_the_uncertainty(table: LatencyTable) -> None:
    table.fill([tiny()])
    files = table.predict(tiny()).plus_minus_ms
    table.fit = Fit(residual=0.1)
    prediction = table.predict(tiny())
    assert prediction.plus_minus_ms == pytest.approx(math.hypot(files, 1.96 * 0.1 * prediction.ms))


def test_a_missing_row_is_named(table: LatencyTable) -> None:
    table.fill([tiny()])
    with pytest.raises(InputError, match=r"has no row for head 18→3 @1×1"):
        table.layer_ms(wide(1).layers()[-1])


def test_a_prediction_without_its_rows_is_refused(table: LatencyTable) -> None:
    table.fill([tiny()])
    with pytest.raises(InputError, match="has no row for"):
        table.predict(wide(1))


def test_an_empty_table_predicts_nothing(table: LatencyTable) -> None:
    with pytest.raises(InputError, match="has no row"):
        table.predict(tiny())


# Calibrating (the fit itself: test_fit.py)


def sum_ms(table: LatencyTable, architecture: Architecture) -> float:
    """One call and all layers, not calibrated."""
    call_ms = table.base_ms / (table.scale * table.fit.a)
    return call_ms + sum(map(table.layer_ms, architecture.layers()))


def calibration(table: LatencyTable, a: float, count: int = 5) -> dict[Architecture, Measurement]:
    """Whole networks that take a · sum of rows."""
    networks = [wide(20 * index).with_width(2, 12 + 3 * index**2) for index in range(count)]
    table.fill(networks)
    return {one: receipt(a * sum_ms(table, one)) for one in networks}


@pytest.mark.parametrize("a", [1.0, 1.3, 0.7])
def test_a_calibration_predicts_unseen_networks_and_is_kept(
    a: float, table: LatencyTable, opened: Open
) -> None:
    unseen = wide(33)
    table.fill([unseen])
    fit = table.calibrate(calibration(table, a))
    assert (fit.a, fit.each) == pytest.approx((a, 0.0), abs=1e-4)
    assert table.predict(unseen).ms == pytest.approx(a * sum_ms(table, unseen), 1e-4)
    again = opened()
    assert again.fit == fit
    assert again.predict(unseen) == table.predict(unseen)


def test_the_scale_is_the_searchs_alone(table: LatencyTable, opened: Open) -> None:
    table.calibrate(calibration(table, 1.3))
    table.verify(tiny(), 1000)
    assert opened().scale == 1


def test_calibrating_anew_forgets_the_earlier_networks(table: LatencyTable, opened: Open) -> None:
    table.calibrate(calibration(table, 5.0))
    fit = table.calibrate(calibration(table, 2.0, 3))
    assert (fit.a, fit.each) == pytest.approx((2, 0), abs=1e-3)
    assert opened().fit == fit


def test_whole_networks_are_kept_with_their_receipts(table: LatencyTable, opened: Open, path: Path) -> None:
    networks = calibration(table, 1.3)
    table.calibrate(networks)
    table.calibrate(networks)  # nothing is kept twice
    assert opened().networks() == networks
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM networks").fetchone() == (len(networks),)


def test_verifying_sets_the_scale_and_keeps_the_order(table: LatencyTable) -> None:
    networks = calibration(table, 1.3)
    table.calibrate(networks)
    before = {one: table.predict(one) for one in networks}
    chosen = list(networks)[1]
    for factor in (1.2, 0.8):  # the second replaces the first
        assert table.verify(chosen, factor * before[chosen].ms) == pytest.approx(factor)
        for one, earlier in before.items():
            assert table.predict(one).ms == pytest.approx(factor * earlier.ms)
            assert table.predict(one).plus_minus_ms == pytest.approx(factor * earlier.plus_minus_ms)


# Measuring for real


def test_layers_are_filled_with_real_receipts(table: LatencyTable) -> None:
    layers = tiny().layers()
    with made_up(measure_chains):
        table.fill_layers(layers[:2])
    assert set(table.rows()) == set(layers[:2])
    assert all(row.ms > 0 for row in table.rows().values())
    for name, one in table.receipts.items():
        assert one.model == name
        assert len(one.samples_ms) >= 24
        assert one.median_ms > 0
        assert one.fingerprint == fingerprint(TARGET)
        assert one.conditions.sentinel_ms is not None
