"""Time, with receipts: warm-up until steady, interleaved rounds, medians with their spread.

efficientformer measure efficientformer_l1 timm/mobilenetv2_100
"""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from efficientformer.latency.target import Target, fingerprint

FORMAT = "efficientformer.measurement/1"
Verdict = Literal["stable", "noisy", "unusable"]
NOISY, UNUSABLE = 0.10, 0.25  # interquartile range over median, torch.utils.benchmark's two warning levels


@dataclass(frozen=True)
class Measurement:
    """The receipt of one latency. Times are milliseconds for one inference, batch 1."""

    model: str
    target: str
    samples_ms: tuple[float, ...]
    fingerprint: dict[str, str]
    date: str
    load: float

    @property
    def median_ms(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples_ms)

    @property
    def p10_ms(self) -> float:
        """One sample in ten is faster."""
        return self._quantile(0.10)

    @property
    def p90_ms(self) -> float:
        """One sample in ten is slower."""
        return self._quantile(0.90)

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95 % confidence interval of the median, from order statistics (no distribution assumed)."""
        ordered, n = sorted(self.samples_ms), len(self.samples_ms)
        reach = 1.96 * math.sqrt(n) / 2
        low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + reach)
        return ordered[max(0, low)], ordered[min(n - 1, high)]

    @property
    def verdict(self) -> Verdict:
        """How far the median can be trusted, by its spread."""
        return "unusable" if self.spread > UNUSABLE else "noisy" if self.spread > NOISY else "stable"

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return (self._quantile(0.75) - self._quantile(0.25)) / self.median_ms

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.samples_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def to_json(self) -> dict[str, Any]:
        """The receipt, raw samples included."""
        summary = {
            "median_ms": self.median_ms,
            "p10_ms": self.p10_ms,
            "p90_ms": self.p90_ms,
            "interval_ms": list(self.interval_ms),
            "samples": len(self.samples_ms),
            "verdict": self.verdict,
        }
        return {"format": FORMAT, **summary, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Measurement:
        """The receipt that `to_json` wrote."""
        fields: dict[str, Any] = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        fields["samples_ms"] = tuple(fields["samples_ms"])
        return cls(**fields)

    def __str__(self) -> str:
        spread = f"p10–p90 {self.p10_ms:.3g}–{self.p90_ms:.3g}, n={len(self.samples_ms)}"
        return f"{self.median_ms:.3f} ms ({spread}, {self.verdict})"


def measure(
    subjects: Mapping[str, Callable[[], object]],
    target: Target,
    *,
    rounds: int = 10,
    seconds: float = 1.0,
    min_samples: int = 30,
) -> dict[str, Measurement]:
    """Time several callables against each other.

    Each is warmed up until steady; then every round gives each its turn, in an order shuffled anew, so that
    a slow spell of the machine falls on all of them.

    Args:
        subjects: what to time, by name; a call is one inference.
        target: what the callables run on, for the receipt.
        rounds: turns each subject gets.
        seconds: time each subject gets in all, warm-up apart.
        min_samples: the fewest samples of each, whatever the time.
    """
    turns = {
        name: max(math.ceil(min_samples / rounds), min(500, int(seconds / rounds / _warm_up(call))))
        for name, call in subjects.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    order, shuffle = list(subjects), random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                samples[name] += _turn(subjects[name], turns[name])
    finally:
        if collecting:
            gc.enable()
    return {name: _receipt(name, target, taken) for name, taken in samples.items()}


def measure_until_usable(
    subjects: Mapping[str, Callable[[], object]], target: Target, *, tries: int = 3, **settings: Any
) -> dict[str, Measurement]:
    """Measure again while a receipt comes out unusable; of all tries, the one that scattered least.

    The choice looks at the spread alone, never at the medians.
    """
    taken = []
    for _ in range(tries):
        taken.append(measure(subjects, target, **settings))
        if all(receipt.verdict != "unusable" for receipt in taken[-1].values()):
            break
    return min(taken, key=lambda receipts: max(receipt.spread for receipt in receipts.values()))


def _warm_up(call: Callable[[], object], longest_s: float = 0.5) -> float:
    """Run until two windows agree within 5 %, or time is up; seconds one call then takes."""
    started, before = time.perf_counter(), math.inf
    while True:
        now = statistics.median(_turn(call, 5)) / 1e3
        if abs(now - before) <= 0.05 * now or time.perf_counter() - started > longest_s:
            return max(now, 1e-7)
        before = now


def _turn(call: Callable[[], object], times: int) -> list[float]:
    call()  # brings its weights back into the caches after another subject's turn
    taken = []
    for _ in range(times):
        begun = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - begun) / 1e6)
    return taken


def _receipt(name: str, target: Target, samples: list[float]) -> Measurement:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    date = datetime.now(UTC).isoformat(timespec="seconds")
    rounded = tuple(round(sample, 6) for sample in samples)
    return Measurement(name, str(target), rounded, fingerprint(target), date, round(load, 2))
