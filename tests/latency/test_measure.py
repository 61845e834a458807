from __future__ import annotations

import gc
import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.latency import measure as module
from efficientformer.latency.measure import Measurement, measure, measure_until_usable
from efficientformer.latency.target import Target, fingerprint

TARGET = Target()
SAMPLES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200)


def receipt(samples: list[float] | np.ndarray) -> Measurement:
    return Measurement("model", str(TARGET), tuple(map(float, samples)), {"cores": "2"}, "2025-01-01", 0.5)


def scattered(median_ms: float, spread: float) -> Measurement:
    """Its interquartile range over its median is the spread."""
    return receipt(median_ms * np.linspace(1 - spread, 1 + spread, 101))


# The receipt


@given(SAMPLES)
def test_the_interval_contains_the_median_and_lies_within_the_samples(samples: list[float]) -> None:
    one = receipt(samples)
    low, high = one.interval_ms
    assert min(samples) <= low <= one.median_ms <= high <= max(samples)
    assert one.median_ms == statistics.median(samples)


@pytest.mark.parametrize("count", [6, 10, 24, 30, 31, 80, 100, 500, 5000])
def test_the_interval_holds_the_true_median_95_times_in_100(count: int) -> None:
    low, high = receipt(np.arange(count)).interval_ms  # a sample's value is its rank, counted from 0
    below = scipy.stats.binom(count, 0.5)  # how many samples fall below the true median
    assert 0.945 <= below.cdf(high) - below.cdf(low) <= 0.99


@given(SAMPLES)
def test_one_sample_in_ten_at_most_lies_beyond_p10_and_p90(samples: list[float]) -> None:
    one = receipt(samples)
    assert one.p10_ms <= one.median_ms <= one.p90_ms
    assert sum(sample < one.p10_ms for sample in samples) <= 0.1 * len(samples)
    assert sum(sample > one.p90_ms for sample in samples) <= 0.1 * len(samples)


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        (0, "stable"),
        (0.09, "stable"),
        (0.11, "noisy"),
        (0.24, "noisy"),
        (0.26, "unusable"),
        (0.9, "unusable"),
    ],
)
def test_the_verdict_goes_by_the_interquartile_range_over_the_median(spread: float, expected: str) -> None:
    one = scattered(7, spread)
    assert scipy.stats.iqr(one.samples_ms) / np.median(one.samples_ms) == pytest.approx(spread)
    assert one.spread == pytest.approx(spread)
    assert one.verdict == expected


def test_a_few_stragglers_do_not_spoil_the_verdict() -> None:
    assert receipt([1.0] * 90 + [50.0] * 10).verdict == "stable"


@given(SAMPLES)
def test_json_round_trip(samples: list[float]) -> None:
    one = receipt(samples)
    document = json.loads(json.dumps(one.to_json()))
    assert Measurement.from_json(document) == one
    assert document["samples"] == len(samples)
    assert document["interval_ms"] == list(one.interval_ms)


def test_no_latency_is_printed_without_count_and_spread() -> None:
    assert str(receipt([2.0] * 27 + [3.0] * 3)) == "2.000 ms (p10–p90 2–3, n=30, stable)"


# Measuring, on a clock that only the subjects move


class FakeTime:
    def __init__(self) -> None:
        self.now_ns = 10**9

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def lasting(self, milliseconds: Iterator[float]) -> Callable[[], None]:
        def call() -> None:
            self.now_ns += round(next(milliseconds) * 1e6)

        return call


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("call_ms", "rounds", "seconds", "min_samples", "expected"),
    [
        (2, 10, 1.0, 30, 500),  # the time it was given
        (2, 10, 0.0, 30, 30),
        (100, 10, 1.0, 30, 30),  # slower than the time it was given: the fewest samples nevertheless
        (2, 4, 0.0, 10, 12),  # whole turns
        (2, 1, 0.0, 1, 1),
        (1e-4, 2, 10.0, 1, 1000),  # at most 500 a turn
    ],
)
def test_how_many_samples_are_taken(
    call_ms: float, rounds: int, seconds: float, min_samples: int, expected: int, fake_time: FakeTime
) -> None:
    subjects = {"one": fake_time.lasting(itertools.repeat(call_ms))}
    taken = measure(subjects, TARGET, rounds=rounds, seconds=seconds, min_samples=min_samples)["one"]
    assert taken.samples_ms == (call_ms,) * expected


def test_it_warms_up_until_the_times_are_steady(fake_time: FakeTime) -> None:
    cooling = (max(1.0, 30 * 0.9**index) for index in itertools.count())
    taken = measure({"one": fake_time.lasting(cooling)}, TARGET, rounds=3, seconds=0)["one"]
    assert set(taken.samples_ms) == {1.0}


def test_what_never_gets_steady_is_measured_all_the_same(fake_time: FakeTime) -> None:
    growing = (1.1**index for index in itertools.count())
    taken = measure({"one": fake_time.lasting(growing)}, TARGET, rounds=2, seconds=0, min_samples=4)["one"]
    assert len(taken.samples_ms) == 4
    assert taken.verdict == "unusable"


def test_subjects_take_turns_in_an_order_that_changes() -> None:
    calls: list[str] = []
    subjects = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    measure(subjects, TARGET, rounds=8, seconds=0, min_samples=16)
    turns = calls[-8 * 3 * 3 :]  # 8 rounds of 3 subjects, each with one call unmeasured and two measured
    orders = ["".join(turns[start : start + 9 : 3]) for start in range(0, len(turns), 9)]
    assert turns == [name for order in orders for name in order for _ in range(3)]
    assert all(Counter(order) == Counter("abc") for order in orders)
    assert len(set(orders)) > 1


def test_a_slow_spell_falls_on_all_subjects(fake_time: FakeTime) -> None:
    spell = (1.0 if index < 200 else 2.0 for index in itertools.count())  # the machine slows down midway
    subjects = {name: fake_time.lasting(spell) for name in ("one", "two")}
    taken = measure(subjects, TARGET, rounds=20, seconds=0, min_samples=100)
    slow = [sum(sample > 1.5 for sample in one.samples_ms) / len(one.samples_ms) for one in taken.values()]
    assert all(0.2 < share < 0.8 for share in slow)
    assert abs(slow[0] - slow[1]) < 0.1


def test_it_measures_again_while_a_receipt_is_unusable_and_takes_the_steadiest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = [
        {"a": (1.0, 0.9), "b": (1.0, 0.0)},
        {"a": (5.0, 0.4), "b": (5.0, 0.3)},
        {"a": (2.0, 0.6), "b": (2.0, 0)},
    ]
    made = iter([{name: scattered(*one) for name, one in row.items()} for row in tries])
    monkeypatch.setattr(module, "measure", lambda *_, **__: next(made))
    taken = measure_until_usable({}, TARGET)
    assert {name: round(one.median_ms) for name, one in taken.items()} == {"a": 5, "b": 5}
    with pytest.raises(StopIteration):
        next(made)  # all three were needed


@pytest.mark.parametrize(
    ("spreads", "expected"), [((0.0,), 1), ((0.2,), 1), ((0.9, 0.2), 2), ((0.9, 0.8), 2)]
)
def test_it_measures_no_oftener_than_it_must(
    spreads: tuple[float, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [{"a": scattered(1.0, spread)} for spread in spreads]
    asked: list[dict[str, Any]] = []

    def fake(_: object, __: Target, **settings: Any) -> dict[str, Measurement]:
        asked.append(settings)
        return made[len(asked) - 1]

    monkeypatch.setattr(module, "measure", fake)
    taken = measure_until_usable({}, TARGET, tries=2, rounds=3, seconds=0.5)
    assert asked == [{"rounds": 3, "seconds": 0.5}] * expected
    assert taken == made[-1]


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_while_measuring(enabled: bool) -> None:
    seen: list[bool] = []
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        measure({"one": lambda: seen.append(gc.isenabled())}, TARGET, rounds=1, seconds=0, min_samples=9)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert seen[-9:] == [False] * 9


def test_garbage_is_collected_again_after_a_failure() -> None:
    calls = itertools.count()

    def fails() -> None:
        if not gc.isenabled():
            raise RuntimeError(f"broken at call {next(calls)}")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="broken at call 0"):
        measure({"one": fails}, TARGET, rounds=1, seconds=0)
    assert gc.isenabled()


def test_a_receipt_says_what_where_and_when() -> None:
    begun = datetime.now(UTC).replace(microsecond=0)
    taken = measure({"one": lambda: None, "two": lambda: None}, TARGET, rounds=1, seconds=0, min_samples=3)
    assert {name: one.model for name, one in taken.items()} == {"one": "one", "two": "two"}
    assert taken["one"].target == "onnxruntime:cpu:threads=1:precision=fp32"
    assert taken["one"].fingerprint == fingerprint(TARGET)
    assert begun <= datetime.fromisoformat(taken["one"].date) <= datetime.now(UTC)
    assert taken["one"].load >= 0


def test_a_machine_without_load_average_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "os", SimpleNamespace())
    taken = measure({"one": lambda: None}, TARGET, rounds=1, seconds=0, min_samples=3)
    assert taken["one"].load == 0
