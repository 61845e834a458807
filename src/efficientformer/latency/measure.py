"""Time, with receipts: warm-up until steady, interleaved rounds, a sentinel, processes of their own.

    efficientformer measure efficientformer_l1 timm/mobilenetv2_100

`measure` times anything that can take turns; `measure_files` times exported files, each in a process of its
own that is started several times, because two launches of one program differ by where its memory lies.
"""

from __future__ import annotations

import functools
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from efficientformer.errors import InputError
from efficientformer.latency.machine import (
    Bystanders,
    bystanders,
    fingerprint,
    private_cache_bytes,
    ticks,
)
from efficientformer.latency.measurement import Conditions, Measurement, joined
from efficientformer.latency.process import Process, processes
from efficientformer.latency.target import Target
from efficientformer.latency.worker import timed

Turn = Callable[[int], Sequence[float]]
"""Takes so many samples and gives them, in milliseconds."""

SLOW = 1.10  # a round is set aside if the sentinel took so many times its best in it
_MOST = 2.5  # at most so many times the rounds asked for are taken to have enough quiet ones
_MOST_SAMPLES = 500  # a turn


def in_process(call: Callable[[], object], before: Callable[[], object] | None = None) -> Turn:
    """Turns of a function of this process.

    Args:
        call: what is timed.
        before: called before each, and not timed.
    """
    return functools.partial(timed, call, before=before)


def cache_emptier() -> Callable[[], object]:
    """Reads so much that nothing else is left in the caches that a core has for itself."""
    ballast = np.zeros(max(2**20, 2 * private_cache_bytes()) // 8)
    return ballast.sum


def measure(
    subjects: Mapping[str, Turn],
    target: Target,
    *,
    rounds: int = 10,
    seconds: float = 1.0,
    min_samples: int = 30,
    sentinel: Turn | None = None,
    pids: Iterable[int] = (),
    warm_up_s: float = 0.5,
    beside_s: float = 0.0,
) -> dict[str, Measurement]:
    """Time several subjects against each other.

    Each is warmed up until steady; then every round gives each its turn, in an order shuffled anew, so that
    a slow spell of the machine falls on all of them. With a sentinel, a fixed piece of work that is timed
    before and after every round, rounds in which it was slow are set aside and others taken instead: the
    choice looks at the sentinel alone, never at the subjects.

    Args:
        subjects: what to time, by name.
        target: what they run on, for the receipt.
        rounds: turns each subject gets.
        seconds: time each subject gets in all, warm-up apart.
        min_samples: the fewest samples of each, whatever the time.
        sentinel: turns of the fixed piece of work.
        pids: processes that the subjects run in, so that they do not count as other programs.
        warm_up_s: the longest warm-up of each.
        beside_s: what a call takes that is not timed, to be counted in `seconds`.
    """
    paces = {name: _warm_up(turn, warm_up_s) for name, turn in subjects.items()}
    fewest, each_s = math.ceil(min_samples / rounds), seconds / rounds
    turns = {
        name: max(fewest, min(_MOST_SAMPLES, int(each_s / (pace + beside_s)))) for name, pace in paces.items()
    }
    collecting, pids = gc.isenabled(), tuple(pids)
    gc.disable()
    try:
        before = ticks(pids)
        kept, guards, set_aside = _rounds(subjects, turns, rounds, sentinel)
        beside = bystanders(before, ticks(pids))
    finally:
        if collecting:
            gc.enable()
    conditions = _conditions(beside, guards, set_aside, sentinel)
    return {name: _receipt(name, target, [one[name] for one in kept], conditions) for name in subjects}


def measure_files(
    files: Mapping[str, Path],
    target: Target,
    *,
    launches: int = 3,
    rounds: int = 12,
    seconds: float = 3.0,
    min_samples: int = 60,
) -> dict[str, Measurement]:
    """Time exported files of one target against each other, each in a process of its own.

    Args:
        files: artefacts by name.
        target: where they run.
        launches: how often the processes are started anew; rounds, seconds and samples are shared out.
        rounds: turns each file gets in all.
        seconds: time each file gets in all, warm-up apart.
        min_samples: the fewest samples of each.
    """
    if launches < 1 or seconds <= 0:
        raise InputError("measuring needs at least one launch and more than 0 seconds")
    share = {
        "rounds": math.ceil(rounds / launches),
        "seconds": seconds / launches,
        "min_samples": math.ceil(min_samples / launches),
    }
    parts = [_launch(files, target, share) for _ in range(launches)]
    return {name: joined([part[name] for part in parts]) for name in files}


def _launch(files: Mapping[str, Path], target: Target, share: Mapping[str, float]) -> dict[str, Measurement]:
    with Process(None, target) as sentinel, processes(dict(files), target) as running:
        receipts = measure(
            {name: process.time for name, process in running.items()},
            target,
            rounds=int(share["rounds"]),
            seconds=share["seconds"],
            min_samples=int(share["min_samples"]),
            sentinel=sentinel.time,
            pids=[sentinel.pid, *(process.pid for process in running.values())],
        )
        return {
            name: receipt.under(launches=1, pinned=running[name].pinned, cpus=running[name].cpus)
            for name, receipt in receipts.items()
        }


def until_usable(
    take: Callable[[], dict[str, Measurement]], *, tries: int = 3, quiet: bool = False
) -> dict[str, Measurement]:
    """Measure again while a receipt comes out unusable; of all tries, the best by verdict, then by spread.

    The choice never looks at the medians.

    Args:
        take: measures.
        tries: how often at most.
        quiet: measure again while one is noisy, too.
    """
    taken = []
    for _ in range(tries):
        taken.append(take())
        verdicts = {receipt.verdict for receipt in taken[-1].values()}
        if not verdicts & ({"unusable", "noisy"} if quiet else {"unusable"}):
            break
    best = min(taken, key=_trouble)
    return {name: receipt.under(tries=len(taken)) for name, receipt in best.items()}


def _trouble(receipts: Mapping[str, Measurement]) -> tuple[bool, float]:
    """Whether any is unusable; the greatest spread."""
    some = receipts.values()
    return any(one.verdict == "unusable" for one in some), max(one.spread for one in some)


def _rounds(
    subjects: Mapping[str, Turn], turns: Mapping[str, int], wanted: int, sentinel: Turn | None
) -> tuple[list[dict[str, Sequence[float]]], list[float], int]:
    """The quiet rounds in the order taken, the sentinel's time in each, and how many were set aside."""
    taken: list[dict[str, Sequence[float]]] = []
    guards: list[float] = []
    order, shuffle = list(subjects), random.Random(0)
    guard = _guard(sentinel)
    while sum(quiet := _quiet(guards)) < wanted and len(taken) < math.ceil(_MOST * wanted):
        shuffle.shuffle(order)
        taken.append({name: subjects[name](turns[name]) for name in order})
        guards.append(max(guard, guard := _guard(sentinel)))
    ranked = sorted(range(len(taken)), key=lambda index: (not quiet[index], guards[index], index))
    kept = sorted(ranked[:wanted])
    return [taken[index] for index in kept], [guards[index] for index in kept], len(taken) - len(kept)


def _quiet(guards: Sequence[float]) -> list[bool]:
    return [guard <= SLOW * min(guards) for guard in guards]


def _guard(sentinel: Turn | None) -> float:
    return statistics.median(sentinel(5)) if sentinel else 1.0


def _conditions(
    beside: Bystanders, guards: Sequence[float], set_aside: int, sentinel: Turn | None
) -> Conditions:
    third = max(1, len(guards) // 3)
    before, after = statistics.median(guards[:third]), statistics.median(guards[-third:])
    return Conditions(
        set_aside=set_aside,
        sentinel_ms=(round(before, 4), round(after, 4)) if sentinel else None,
        others_cores=beside.others_cores,
        stolen_cores=beside.stolen_cores,
        load=beside.load,
    )


def _warm_up(turn: Turn, longest_s: float) -> float:
    """Run until two windows agree within 5 %, or time is up; seconds one call then takes."""
    started, before = time.perf_counter(), math.inf
    while True:
        now = statistics.median(turn(5)) / 1e3
        if abs(now - before) <= 0.05 * now or time.perf_counter() - started > longest_s:
            return max(now, 1e-7)
        before = now


def _receipt(
    name: str, target: Target, rounds: Sequence[Sequence[float]], conditions: Conditions
) -> Measurement:
    date = datetime.now(UTC).isoformat(timespec="seconds")
    samples = tuple(round(sample, 6) for part in rounds for sample in part)
    sizes = tuple(len(part) for part in rounds)
    return Measurement(name, str(target), samples, fingerprint(target), date, sizes, conditions)
