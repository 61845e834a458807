"""Measuring, on a clock that only the subjects move; at the end, files for real."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.errors import InputError
from efficientformer.latency import measure as module
from efficientformer.latency.machine import cpus_for, fingerprint
from efficientformer.latency.measure import (
    SLOW,
    cache_emptier,
    in_process,
    measure,
    measure_files,
    until_usable,
)
from efficientformer.latency.measurement import Conditions, Measurement
from efficientformer.latency.target import Target
from tests.latency.conftest import FakeTime

TARGET = Target()


def scattered(median_ms: float, spread: float) -> Measurement:
    """Its interquartile range over its median is the spread."""
    samples = tuple(map(float, median_ms * np.linspace(1 - spread, 1 + spread, 101)))
    return Measurement("model", str(TARGET), samples, {"cores": "2"}, "2026-01-01")


# How many, and in what order


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
    subjects = {"one": in_process(fake_time.lasting(itertools.repeat(call_ms)))}
    taken = measure(subjects, TARGET, rounds=rounds, seconds=seconds, min_samples=min_samples)["one"]
    assert taken.samples_ms == (call_ms,) * expected
    assert taken.rounds == (expected // rounds,) * rounds


def test_it_warms_up_until_the_times_are_steady(fake_time: FakeTime) -> None:
    cooling = (max(1.0, 30 * 0.9**index) for index in itertools.count())
    taken = measure({"one": in_process(fake_time.lasting(cooling))}, TARGET, rounds=3, seconds=0)["one"]
    assert set(taken.samples_ms) == {1.0}


def test_what_never_gets_steady_is_measured_all_the_same(fake_time: FakeTime) -> None:
    growing = in_process(fake_time.lasting(1.1**index for index in itertools.count()))
    taken = measure({"one": growing}, TARGET, rounds=2, seconds=0, min_samples=4)["one"]
    assert len(taken.samples_ms) == 4
    assert taken.verdict == "unusable"


def test_subjects_take_turns_in_an_order_that_changes() -> None:
    calls: list[str] = []
    subjects = {name: in_process(lambda name=name: calls.append(name)) for name in "abc"}
    measure(subjects, TARGET, rounds=8, seconds=0, min_samples=16)
    turns = calls[-8 * 3 * 3 :]  # 8 rounds of 3 subjects, each with one call unmeasured and two measured
    orders = ["".join(turns[start : start + 9 : 3]) for start in range(0, len(turns), 9)]
    assert turns == [name for order in orders for name in order for _ in range(3)]
    assert all(Counter(order) == Counter("abc") for order in orders)
    assert len(set(orders)) > 1


def test_a_slow_spell_falls_on_all_subjects(fake_time: FakeTime) -> None:
    spell = (1.0 if index < 200 else 2.0 for index in itertools.count())  # the machine slows down midway
    subjects = {name: in_process(fake_time.lasting(spell)) for name in ("one", "two")}
    taken = measure(subjects, TARGET, rounds=20, seconds=0, min_samples=100)
    slow = [sum(sample > 1.5 for sample in one.samples_ms) / len(one.samples_ms) for one in taken.values()]
    assert all(0.2 < share < 0.8 for share in slow)
    assert abs(slow[0] - slow[1]) < 0.1


# The sentinel

WARMING = 5  # samples of a turn of the warm-up, and of the sentinel


def looks(times: Iterable[float]) -> module.Turn:
    """A sentinel that takes these times, one a look, and then the last of them for ever."""
    listed = list(times)
    ahead = itertools.chain(listed, itertools.repeat(listed[-1]))
    return lambda runs: [next(ahead)] * runs


def numbered(noise: Callable[[int], float] = lambda index: 0.0) -> module.Turn:
    """A subject whose samples tell by their whole part in which round they were taken, from 1."""
    number = itertools.count(1)

    def turn(runs: int) -> list[float]:
        if runs == WARMING:
            return [1.0] * runs
        index = next(number)
        return [index + noise(index)] * runs

    return turn


def kept_rounds(
    times: Iterable[float], wanted: int, noise: Callable[[int], float] = lambda index: 0.0
) -> tuple[list[int], Conditions]:
    """Which rounds a measurement keeps, and its conditions."""
    taken = measure(
        {"one": numbered(noise)},
        TARGET,
        rounds=wanted,
        seconds=0,
        min_samples=3 * wanted,
        sentinel=looks(times),
    )["one"]
    assert taken.rounds == (3,) * wanted
    return [int(part[0]) for part in taken.by_round()], taken.conditions


@pytest.mark.parametrize(
    ("times", "wanted", "kept", "set_aside"),
    [
        ([1.0], 4, [1, 2, 3, 4], 0),
        ([1.0, SLOW, 1.0, SLOW, 1.0], 4, [1, 2, 3, 4], 0),  # just within
        ([1.0, 1.0, 1.0, 2.0, 1.0], 4, [1, 2, 5, 6], 2),  # a slow look spoils the rounds before and after
        ([2.0, 1.0], 3, [2, 3, 4], 1),
        ([2.0, 2.0, 1.0], 3, [3, 4, 5], 2),  # slow is what is slower than the best of all
        ([1.0, 1.0, 2.0, 3.0, 1.5], 2, [1, 5], 3),  # never enough quiet ones: the least slow, at most 2.5 ×
        ([1.0, 1.0, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0], 4, [1, 2, 3, 4], 6),
        ([2.0], 4, [1, 2, 3, 4], 0),  # slow throughout is the machine's pace
    ],
)
def test_slow_rounds_are_set_aside_and_others_taken(
    times: list[float], wanted: int, kept: list[int], set_aside: int
) -> None:
    found, conditions = kept_rounds(times, wanted)
    assert found == kept
    assert conditions.set_aside == set_aside


LOOKS = st.lists(st.floats(1.0, 2.0), min_size=1, max_size=30)


@given(LOOKS, st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_choice_of_rounds_never_looks_at_the_subjects(
    times: list[float], wanted: int, random: Any
) -> None:
    quiet = kept_rounds(times, wanted)
    noise = {index: random.random() * 0.9 for index in range(1, 100)}
    perturbed = kept_rounds(times, wanted, noise.__getitem__)
    assert perturbed[0] == quiet[0]
    assert perturbed[1].set_aside == quiet[1].set_aside
    assert perturbed[1].sentinel_ms == quiet[1].sentinel_ms


@given(LOOKS, st.integers(1, 8))
def test_rounds_are_as_many_as_asked_for_and_in_the_order_taken(times: list[float], wanted: int) -> None:
    kept, conditions = kept_rounds(times, wanted)
    assert len(kept) == wanted
    assert kept == sorted(kept)
    assert wanted + conditions.set_aside <= -(-5 * wanted // 2)  # at most 2.5 times as many
    assert max(kept) <= wanted + conditions.set_aside


@pytest.mark.parametrize(
    ("times", "expected"),
    [([1.0], (1.0, 1.0)), ([1.0] * 3 + [1.05] * 9, (1.0, 1.05)), ([2.0] * 20, (2.0, 2.0))],
)
def test_the_receipt_tells_the_sentinel_at_both_ends(
    times: list[float], expected: tuple[float, float]
) -> None:
    assert kept_rounds(times, 9)[1].sentinel_ms == expected


def test_without_a_sentinel_nothing_is_set_aside() -> None:
    taken = measure({"one": numbered()}, TARGET, rounds=4, seconds=0, min_samples=12)["one"]
    assert (taken.conditions.set_aside, taken.conditions.sentinel_ms) == (0, None)
    assert len(taken.rounds) == 4


# Trying again


def test_it_measures_again_while_a_receipt_is_unusable_and_takes_the_steadiest() -> None:
    tries = [
        {"a": (1.0, 0.9), "b": (1.0, 0.0)},
        {"a": (5.0, 0.4), "b": (5.0, 0.3)},
        {"a": (2.0, 0.6), "b": (2.0, 0)},
    ]
    made = iter([{name: scattered(*one) for name, one in row.items()} for row in tries])
    taken = until_usable(lambda: next(made))
    assert {name: round(one.median_ms) for name, one in taken.items()} == {"a": 5, "b": 5}
    with pytest.raises(StopIteration):
        next(made)  # all three were needed


@pytest.mark.parametrize(
    ("spreads", "expected", "quiet"),
    [
        ((0.0,), 1, False),
        ((0.2,), 1, False),
        ((0.9, 0.2), 2, False),
        ((0.9, 0.8), 2, False),
        ((0.0,), 1, True),
        ((0.2, 0.0), 2, True),
    ],
)
def test_it_measures_no_oftener_than_it_must(spreads: tuple[float, ...], expected: int, quiet: bool) -> None:
    made = [{"a": scattered(1.0, spread)} for spread in spreads]
    ahead = iter(made)
    taken = until_usable(lambda: next(ahead), tries=2, quiet=quiet)
    assert taken["a"].samples_ms == made[-1]["a"].samples_ms
    assert taken["a"].conditions.tries == expected
    assert len(list(ahead)) == len(spreads) - expected


# What is around it


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_while_measuring(enabled: bool) -> None:
    seen: list[bool] = []
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        subject = in_process(lambda: seen.append(gc.isenabled()))
        measure({"one": subject}, TARGET, rounds=1, seconds=0, min_samples=9)
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
        measure({"one": in_process(fails)}, TARGET, rounds=1, seconds=0)
    assert gc.isenabled()


def test_a_receipt_says_what_where_and_when() -> None:
    begun = datetime.now(UTC).replace(microsecond=0)
    subjects = {name: in_process(lambda: None) for name in ("one", "two")}
    taken = measure(subjects, TARGET, rounds=1, seconds=0, min_samples=3)
    assert {name: one.model for name, one in taken.items()} == {"one": "one", "two": "two"}
    assert taken["one"].target == "onnxruntime:cpu:threads=1:precision=fp32"
    assert taken["one"].fingerprint == fingerprint(TARGET)
    assert begun <= datetime.fromisoformat(taken["one"].date) <= datetime.now(UTC)
    assert taken["one"].conditions.launches == 0  # it ran in this process


# Files


class FakeProcess:
    """In the place of a process: takes a millisecond a run, and remembers that it was started."""

    started: list[str]
    pinned, cpus, pid = True, (1,), 1

    def __init__(self, path: Path | None, target: Target) -> None:
        self.started.append(path.name if path else "sentinel")
        self.takes = itertools.repeat(1.0)

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.started.append("ended")

    def time(self, runs: int) -> list[float]:
        return list(itertools.islice(self.takes, runs))


@pytest.mark.parametrize(
    ("settings", "rounds", "samples"),
    [
        ({}, 12, 12 * 250),  # 3 s of 1 ms
        ({"launches": 1, "rounds": 4, "seconds": 0.4}, 4, 400),
        ({"launches": 2, "rounds": 5, "seconds": 1e-9, "min_samples": 7}, 6, 12),
        ({"launches": 5, "rounds": 5, "seconds": 1e-9, "min_samples": 1}, 5, 5),
    ],
)
def test_rounds_seconds_and_samples_are_shared_out_over_the_launches(
    settings: dict[str, Any], rounds: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def processes(files: dict[str, Path], target: Target) -> Iterator[dict[str, FakeProcess]]:
        yield {name: FakeProcess(path, target) for name, path in files.items()}

    monkeypatch.setattr(FakeProcess, "started", [], raising=False)
    monkeypatch.setattr(module, "Process", FakeProcess)
    monkeypatch.setattr(module, "processes", processes)
    launches = settings.get("launches", 3)
    taken = measure_files({"a": Path("a.onnx"), "b": Path("b.onnx")}, TARGET, **settings)
    assert FakeProcess.started == ["sentinel", "a.onnx", "b.onnx", "ended"] * launches
    for one in taken.values():
        assert (len(one.rounds), len(one.samples_ms)) == (rounds, samples)
        assert (one.conditions.launches, one.conditions.pinned) == (launches, True)


@pytest.mark.parametrize("settings", [{"launches": 0}, {"seconds": 0.0}, {"seconds": -1.0}])
def test_nothing_cannot_be_measured(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least one launch and more than 0 seconds"):
        measure_files({"a": Path("a.onnx")}, TARGET, **settings)


def test_what_comes_before_a_call_is_not_timed(fake_time: FakeTime) -> None:
    call, before = fake_time.lasting(itertools.repeat(2.0)), fake_time.lasting(itertools.repeat(50.0))
    turn = in_process(call, before=before)
    assert list(turn(4)) == [2.0] * 4
    asked: dict[str, Any] = {"rounds": 2, "seconds": 1.04, "min_samples": 1, "warm_up_s": 0}
    plain = measure({"one": turn}, TARGET, **asked)["one"]
    told = measure({"one": turn}, TARGET, **asked, beside_s=0.05)["one"]
    assert (len(plain.samples_ms), len(told.samples_ms)) == (520, 20)  # 0.52 s a round of 2 or 52 ms


def test_the_emptier_reads_twice_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "private_cache_bytes", lambda: 4 * 2**20)
    assert cache_emptier().__self__.nbytes == 8 * 2**20
    monkeypatch.setattr(module, "private_cache_bytes", lambda: 2**15)
    assert cache_emptier().__self__.nbytes == 2**20


def test_a_real_file_in_processes_of_its_own(small_file: Path) -> None:
    settings: dict[str, Any] = {"launches": 2, "rounds": 4, "seconds": 0.02, "min_samples": 24}
    both = measure_files({"one": small_file, "same": small_file}, TARGET, **settings)
    for name, taken in both.items():
        assert (taken.model, taken.target) == (name, str(TARGET))
        assert len(taken.rounds) == 4
        assert sum(taken.rounds) == len(taken.samples_ms) >= 24
        assert taken.fingerprint == fingerprint(TARGET)
        assert Measurement.from_json(taken.to_json()) == taken
    assert 0.2 < both["one"].median_ms / both["same"].median_ms < 5  # they took turns
    seen = both["one"].conditions
    assert (seen.launches, seen.pinned) == (2, bool(cpus_for(1)))
    assert seen.sentinel_ms is not None
    assert all(0.1 < ms < 200 for ms in seen.sentinel_ms)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell how busy it is")
def test_a_busy_machine_is_told(small_file: Path) -> None:
    burn = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(burn) for _ in range(os.cpu_count() or 1)]
    try:
        taken = measure_files({"small": small_file}, TARGET, launches=1, rounds=6, seconds=1.0)["small"]
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert taken.verdict != "stable"
    assert any("other programs kept" in reason for reason in taken.reasons)
    assert taken.conditions.others_cores is not None
    assert taken.conditions.others_cores > 0.3


def test_a_machine_that_does_not_tell_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ticks", lambda pids: None)
    monkeypatch.setattr("efficientformer.latency.machine.os", SimpleNamespace(cpu_count=lambda: 1))
    taken = measure({"one": in_process(lambda: None)}, TARGET, rounds=1, seconds=0, min_samples=30)["one"]
    assert (taken.conditions.load, taken.conditions.others_cores, taken.conditions.stolen_cores) == (
        0,
        None,
        None,
    )
