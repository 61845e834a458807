from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sqlite3
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from efficientformer import PRESETS, Architecture, InputError, Layer
from efficientformer.latency import table as module
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import CALL, Fit, LatencyTable, megabytes
from efficientformer.latency.target import Target
from tests.strategies import architectures, tiny

TARGET = Target()
REAL = module.measure_layers
CALL_MS = 0.005


def receipt(ms: float, spread_ms: float = 0.0) -> Measurement:
    samples = tuple(ms + spread_ms * (index - 10) / 10 for index in range(21))
    return Measurement("fake", str(TARGET), samples, fingerprint(TARGET), "2025-01-01")


def fake_ms(layer: Layer) -> float:
    """Grows with the widths and with whatever a layer computes."""
    area = layer.height * layer.width
    return 0.01 + 1e-6 * (layer.macs + layer.params + area * (layer.in_width + layer.out_width))


def fake_measure_layers(
    layers: Sequence[Layer], target: Target, *, with_call: bool = False
) -> dict[str, Measurement]:
    rows = {layer.key(): receipt(fake_ms(layer), 0.001) for layer in layers}
    return rows | ({CALL: receipt(CALL_MS)} if with_call else {})


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_measured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "measure_layers", fake_measure_layers)
        yield


Open = Callable[..., LatencyTable]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "table.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the test's table, each time as if in another process."""
    with contextlib.ExitStack() as stack:
        yield lambda target=TARGET: stack.enter_context(contextlib.closing(LatencyTable(path, target)))


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


def test_filling_measures_what_is_missing_once(table: LatencyTable) -> None:
    assert table.rows() == {}
    layers = set(tiny().layers())
    assert table.fill([tiny(), tiny()]) == len(layers)
    assert set(table.rows()) == {layer.key() for layer in layers} | {CALL}
    assert table.missing([tiny()]) == []
    assert table.fill([tiny()]) == 0
    new = table.missing([tiny(), wide(1)])
    assert new == [layer for layer in wide(1).layers() if layer not in layers]
    assert table.fill([tiny(), wide(1)]) == len(new)


class Stopping:
    """Measures a few batches, then is interrupted; keeps what it was asked for."""

    def __init__(self, batches: int) -> None:
        self.left, self.asked = batches, []

    def __call__(self, layers: Sequence[Layer], target: Target, **options: Any) -> dict[str, Measurement]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked.append([*layers, CALL] if options["with_call"] else list(layers))
        return fake_measure_layers(layers, target, **options)


def test_a_stopped_fill_goes_on_where_it_was(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    first, second = Stopping(2), Stopping(100)
    monkeypatch.setattr(module, "measure_layers", first)
    with pytest.raises(KeyboardInterrupt):
        opened().fill([tiny()])
    monkeypatch.setattr(module, "measure_layers", second)
    table = opened()
    assert set(table.rows()) == {layer.key() for layer in tiny().layers()[:6]} | {CALL}
    assert table.fill([tiny()]) == len(tiny().layers()) - 6
    asked = [layer for batch in first.asked + second.asked for layer in batch]
    assert sorted(map(str, asked)) == sorted(map(str, [*tiny().layers(), CALL]))  # each one once


def test_progress_is_told_after_each_batch(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 5)
    total, told = len(tiny().layers()), []
    table.fill([tiny()], lambda done, of: told.append((done, of)))
    assert told == [(5, total), (10, total), (total, total)]


def test_rows_are_the_same_after_reopening(table: LatencyTable, opened: Open) -> None:
    table.fill([tiny()])
    again = opened()
    assert again.rows() == table.rows()
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
        patched.setattr(module, "fingerprint", lambda _: here | {key: there})
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
    database.execute("UPDATE about SET value = 'efficientformer.latency-table/0' WHERE key = 'format'")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (text_file, "is no latency table"),
        (folder, "is no latency table"),
        (other_about, "is no latency table"),
        (other_format, "is a table of format 'efficientformer.latency-table/0'"),
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
    expected = CALL_MS + sum(fake_ms(layer) - CALL_MS for layer in architecture.layers())
    assert examples.predict(architecture).ms == pytest.approx(expected)


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


def test_a_layer_never_costs_less_than_nothing(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_fast(layers: Sequence[Layer], _: Target, **__: Any) -> dict[str, Measurement]:
        return {layer.key(): receipt(0.001) for layer in layers} | {CALL: receipt(0.003)}

    monkeypatch.setattr(module, "measure_layers", all_fast)
    table.fill([tiny()])
    assert {table.layer_ms(layer) for layer in tiny().layers()} == {0.0}
    assert table.predict(tiny()).ms == 0.003


def shifted(table: LatencyTable, key: str, by_ms: float) -> dict[str, Measurement]:
    row = table.rows()[key]
    return {key: dataclasses.replace(row, samples_ms=tuple(sample + by_ms for sample in row.samples_ms))}


def propagated(table: LatencyTable, architecture: Architecture) -> float:
    """What the prediction's uncertainty is if each row errs by half its interval, on its own."""
    before, effects = table.predict(architecture).ms, []
    for key, row in table.rows().items():
        low, high = row.interval_ms
        table._store(shifted(table, key, (high - low) / 2))
        effects.append(table.predict(architecture).ms - before)
        table._store({key: row})
    return math.hypot(*effects)


def test_rows_err_independently_and_equal_layers_alike(table: LatencyTable) -> None:
    twice = tiny().with_block(1, 0, "pool")  # two equal layers in a stage
    table.fill([twice])
    assert propagated(table, twice) > 0.001  # the sum of a dozen rows with 0.0005 each, one of them double
    assert table.predict(twice).plus_minus_ms == pytest.approx(propagated(table, twice))


def test_the_error_of_the_call_counts_for_every_layer(table: LatencyTable) -> None:
    table.fill([tiny()])
    table._store({CALL: receipt(CALL_MS, 0.002)})
    assert table.predict(tiny()).plus_minus_ms == pytest.approx(propagated(table, tiny()))


def test_what_the_calibration_leaves_over_is_part_of_the_uncertainty(table: LatencyTable) -> None:
    table.fill([tiny(), wide(30)])
    rows = table.predict(tiny()).plus_minus_ms
    fit = table.calibrate({tiny(): receipt(0.9 * table.sum_ms(tiny())), wide(30): receipt(3.0)})
    table.fit = dataclasses.replace(fit, a=1.0, b=0.0, residual=0.1)
    prediction = table.predict(tiny())
    assert prediction.plus_minus_ms == pytest.approx(math.hypot(rows, 1.96 * 0.1 * prediction.ms))


def test_a_missing_row_is_named(table: LatencyTable) -> None:
    table.fill([tiny()])
    with pytest.raises(InputError, match=r"has no row for head 18→3 @1×1"):
        table.layer_ms(wide(1).layers()[-1])
    with pytest.raises(InputError, match="has no row for"):
        table.sum_ms(wide(1))


def test_a_prediction_without_its_rows_is_refused(table: LatencyTable) -> None:
    table.fill([tiny()])
    with pytest.raises(InputError, match="has no row for"):
        table.predict(wide(1))


def test_an_empty_table_predicts_nothing(table: LatencyTable) -> None:
    with pytest.raises(InputError, match="has no row"):
        table.sum_ms(tiny())


# Calibrating


def calibration(table: LatencyTable, a: float, b: float, count: int = 5) -> dict[Architecture, Measurement]:
    """Whole networks that take a · sum of rows + b · megabytes."""
    networks = [wide(20 * index).with_width(2, 12 + 3 * index**2) for index in range(count)]
    table.fill(networks)
    return {one: receipt(a * table.sum_ms(one) + b * megabytes(one)) for one in networks}


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (1.3, 0.5), (0.7, 4.0), (0.0, 2.0)])
def test_calibrating_finds_the_two_factors(a: float, b: float, table: LatencyTable, opened: Open) -> None:
    networks = calibration(table, a, b)
    fit = table.calibrate(networks)
    assert (fit.a, fit.b) == pytest.approx((a, b), abs=1e-6)
    assert fit.residual == pytest.approx(0, abs=1e-6)
    unseen = wide(33)
    table.fill([unseen])
    expected = a * table.sum_ms(unseen) + b * megabytes(unseen)
    other = opened()
    other.fit = fit  # whoever wants the fit again keeps it
    for one in (table, other):
        assert one.predict(unseen).ms == pytest.approx(expected)


def test_the_residual_is_the_relative_error_that_is_left(table: LatencyTable) -> None:
    networks = {
        one: receipt(measured.median_ms * factor)
        for (one, measured), factor in zip(
            calibration(table, 1.0, 0.5).items(), (1.1, 0.9, 1.0, 1.05, 0.95), strict=True
        )
    }
    fit = table.calibrate(networks)
    errors = [table.predict(one).ms / measured.median_ms - 1 for one, measured in networks.items()]
    assert fit.residual == pytest.approx(math.sqrt(statistics.fmean(error**2 for error in errors)))
    assert fit.residual > 0.02


def test_no_factor_is_negative(table: LatencyTable) -> None:
    fit = table.calibrate(calibration(table, 1.0, -0.5))  # larger weights, less time: noise, no law
    assert fit.b == 0
    assert fit.a > 0


def test_a_table_is_not_calibrated_at_first(table: LatencyTable, opened: Open) -> None:
    table.calibrate(calibration(table, 5.0, 1.0))
    table.verify(tiny(), 1000)
    assert (opened().fit, opened().scale) == (Fit(1, 0, 0), 1)


def test_calibrating_anew_forgets_the_earlier_networks(table: LatencyTable) -> None:
    table.calibrate(calibration(table, 5.0, 0.0))
    fit = table.calibrate(calibration(table, 2.0, 1.0, 3))
    assert (fit.a, fit.b) == pytest.approx((2, 1))


def test_whole_networks_are_kept_with_their_receipts(table: LatencyTable, path: Path) -> None:
    networks = calibration(table, 1.3, 0.5)
    table.calibrate(networks)
    with contextlib.closing(sqlite3.connect(path)) as database:
        kept = database.execute("SELECT architecture, measurement FROM networks").fetchall()
    assert networks == {
        Architecture.from_json(json.loads(one)): Measurement.from_json(json.loads(measured))
        for one, measured in kept
    }


def test_verifying_sets_the_scale_and_keeps_the_order(table: LatencyTable) -> None:
    networks = calibration(table, 1.3, 0.5)
    table.calibrate(networks)
    before = {one: table.predict(one) for one in networks}
    chosen = list(networks)[1]
    for factor in (1.2, 0.8):  # the second replaces the first
        assert table.verify(chosen, factor * before[chosen].ms) == pytest.approx(factor)
        for one, earlier in before.items():
            assert table.predict(one).ms == pytest.approx(factor * earlier.ms)
            assert table.predict(one).plus_minus_ms == pytest.approx(factor * earlier.plus_minus_ms)


# Measuring for real


def test_a_tiny_network_is_filled_with_real_receipts(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_layers", REAL)
    architecture = tiny().with_block(0, 0, "identity")
    table.fill([architecture])
    rows = table.rows()
    assert set(rows) == {layer.key() for layer in architecture.layers()} | {CALL}
    assert {row.model for row in rows.values()} == set(rows)
    assert all(len(row.samples_ms) >= 24 and row.median_ms > 0 for row in rows.values())
    assert all(row.fingerprint == fingerprint(TARGET) for row in rows.values())
    assert table.predict(architecture).ms > 0


def test_megabytes() -> None:
    assert megabytes(PRESETS["efficientformer_l1"]) == pytest.approx(12_289_928 * 4 / 1e6)
