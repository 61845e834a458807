"""The receipt of one latency: samples, spread, interval, the conditions they were taken under, a verdict."""

from __future__ import annotations

import dataclasses
import functools
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

FORMAT = "efficientformer.measurement/2"
Verdict = Literal["stable", "noisy", "unusable"]
_FEWEST, _RESAMPLES, _SKETCH = 10, 1000, 100


@dataclass(frozen=True)
class Limits:
    """What is worth a warning, and what spoils a measurement; (noisy, unusable) above.

    Attributes:
        spread: interquartile range over median: torch.utils.benchmark's two warning levels.
        drift: how much longer or shorter a fixed piece of work took after than before.
        others_cores: cores kept busy by other programs.
        stolen_cores: cores that the hypervisor gave away.
        set_aside: share of the rounds taken that were left out.
    """

    spread: tuple[float, float] = (0.10, 0.25)
    drift: tuple[float, float] = (0.10, 0.25)
    others_cores: tuple[float, float] = (0.30, 1.30)
    stolen_cores: tuple[float, float] = (0.05, 0.25)
    set_aside: tuple[float, float] = (1 / 3, 0.6)


LIMITS = Limits()
NOISY, UNUSABLE = LIMITS.spread


@dataclass(frozen=True)
class Conditions:
    """What else was going on while samples were taken; None for what was not looked at.

    Attributes:
        launches: how often the measured processes were started anew; 0 if it ran in this process.
        pinned: whether each was kept on as many processors as it has threads.
        cpus: the processors they were kept on; empty if they were not.
        set_aside: rounds left out because the sentinel was slow in them; the samples are not looked at.
        tries: measurements taken to have this one, the steadiest by spread; the others are not kept.
        sentinel_ms: (before, after): medians of a fixed piece of work in the first and the last rounds of the
            launch in which they differ most.
        reference_ms: median of the latency table's reference network, where it was timed in the same rounds.
        others_cores: cores that other programs kept busy, on average.
        stolen_cores: cores that the hypervisor gave to others, on average.
        load: the system's load average of the last minute.
    """

    launches: int = 0
    pinned: bool = False
    cpus: tuple[int, ...] = ()
    set_aside: int = 0
    tries: int = 1
    sentinel_ms: tuple[float, float] | None = None
    reference_ms: float | None = None
    others_cores: float | None = None
    stolen_cores: float | None = None
    load: float = 0.0

    @property
    def drift(self) -> float:
        """How much longer the fixed piece of work took at the end than at the beginning, as a share."""
        if self.sentinel_ms is None:
            return 0.0
        before, after = self.sentinel_ms
        return max(before, after) / min(before, after) - 1


@dataclass(frozen=True)
class Measurement:
    """The receipt of one latency. Times are milliseconds for one inference, batch 1.

    Attributes:
        model: what was timed.
        target: where.
        samples_ms: every sample, in the order taken.
        fingerprint: machine, runtime and versions (`machine.fingerprint`).
        date: when it was taken, UTC.
        rounds: how many samples each round gave; empty if each stands for itself.
        conditions: what else was going on.
    """

    model: str
    target: str
    samples_ms: tuple[float, ...]
    fingerprint: dict[str, str]
    date: str
    rounds: tuple[int, ...] = ()
    conditions: Conditions = field(default_factory=Conditions)

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
    def p99_ms(self) -> float | None:
        """One sample in a hundred is slower; None below 300 samples, too few to tell."""
        return self._quantile(0.99) if len(self.samples_ms) >= 300 else None

    @property
    def iqr_ms(self) -> float:
        """The interquartile range."""
        return self._quantile(0.75) - self._quantile(0.25)

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return self.iqr_ms / self.median_ms

    @functools.cached_property
    def interval_ms(self) -> tuple[float, float]:
        """95 % confidence interval of the median: a bootstrap over launches, and over rounds within each.

        Samples of one round share its slow or fast spell of the machine, rounds of one launch where its
        memory lies; so launches and rounds are drawn, not samples. Of each round at most 100 evenly spaced
        order statistics stand for it.
        """
        rounds = [_sketch(part) for part in self.by_round()]
        draws = drawn_rounds(len(rounds), self.conditions.launches, _RESAMPLES)
        if len({len(part) for part in rounds}) == 1:
            medians = np.median(np.stack(rounds)[draws].reshape(_RESAMPLES, -1), axis=1)
        else:
            medians = np.array([np.median(np.concatenate([rounds[i] for i in draw])) for draw in draws])
        low, high = np.quantile(medians, (0.025, 0.975))
        return min(float(low), self.median_ms), max(float(high), self.median_ms)

    def under(self, **conditions: Any) -> Measurement:
        """The same receipt with more known of its conditions."""
        return dataclasses.replace(self, conditions=dataclasses.replace(self.conditions, **conditions))

    def by_round(self) -> list[np.ndarray]:
        """The samples, round by round."""
        sizes = self.rounds or (1,) * len(self.samples_ms)
        return np.split(np.array(self.samples_ms), np.cumsum(sizes)[:-1])

    @property
    def verdict(self) -> Verdict:
        """How far the median can be trusted."""
        worst = max((level for level, _ in self._complaints()), default=0)
        return ("stable", "noisy", "unusable")[worst]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not better; empty if it is stable."""
        return tuple(reason for _, reason in self._complaints())

    def _complaints(self) -> list[tuple[int, str]]:
        seen, cores = self.conditions, self.fingerprint.get("cores", "?")
        others, stolen = seen.others_cores or 0.0, seen.stolen_cores or 0.0
        found = [
            (
                _level(self.spread, LIMITS.spread),
                f"the interquartile range is {self.spread:.0%} of the median",
            ),
            (
                _level(seen.drift, LIMITS.drift),
                f"a fixed piece of work took {1 + seen.drift:.2f} times as long at one end of the run as at "
                "the other: the machine was throttled or busy",
            ),
            (
                _level(others, LIMITS.others_cores),
                f"other programs kept {others:.1f} of {cores} cores busy",
            ),
            (
                _level(stolen, LIMITS.stolen_cores),
                f"the hypervisor gave {stolen:.2f} cores to others",
            ),
        ]
        aside = seen.set_aside / (seen.set_aside + len(self.rounds)) if self.rounds else 0.0
        found.append((_level(aside, LIMITS.set_aside), f"{aside:.0%} of the rounds were set aside"))
        threads = re.search(r"threads=(\d+)", self.target)
        if threads and cores.isdecimal() and int(threads[1]) > int(cores):
            found.append((2, f"{threads[1]} threads on {cores} cores"))
        if len(self.samples_ms) < _FEWEST:
            found.append((2, f"only {len(self.samples_ms)} samples"))
        return [(level, reason) for level, reason in found if level]

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.samples_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def to_json(self) -> dict[str, Any]:
        """The receipt, raw samples included."""
        summary = {
            "median_ms": self.median_ms,
            "p10_ms": self.p10_ms,
            "p90_ms": self.p90_ms,
            "p99_ms": self.p99_ms,
            "iqr_ms": self.iqr_ms,
            "interval_ms": list(self.interval_ms),
            "samples": len(self.samples_ms),
            "verdict": self.verdict,
            "reasons": list(self.reasons),
        }
        return {"format": FORMAT, **summary, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Measurement:
        """The receipt that `to_json` wrote, now or in format 1, which had neither rounds nor conditions."""
        conditions = dict(document.get("conditions", {"load": document.get("load", 0.0)}))
        for key in ("sentinel_ms", "cpus"):
            if conditions.get(key) is not None:
                conditions[key] = tuple(conditions[key])
        plain = {key: document[key] for key in ("model", "target", "fingerprint", "date")}
        return cls(
            **plain,
            samples_ms=tuple(document["samples_ms"]),
            rounds=tuple(document.get("rounds", ())),
            conditions=Conditions(**conditions),
        )

    def __str__(self) -> str:
        spread = f"p10–p90 {self.p10_ms:.3g}–{self.p90_ms:.3g}, n={len(self.samples_ms)}"
        return f"{self.median_ms:.3f} ms ({spread}, {self.verdict})"


def joined(parts: Sequence[Measurement]) -> Measurement:
    """Receipts of one thing, taken one after another, as one; of the conditions, the worst of each."""
    seen = [part.conditions for part in parts]
    conditions = Conditions(
        launches=sum(one.launches for one in seen),
        pinned=all(one.pinned for one in seen),
        cpus=seen[0].cpus,
        set_aside=sum(one.set_aside for one in seen),
        sentinel_ms=max(seen, key=lambda one: one.drift).sentinel_ms,
        others_cores=_worst([one.others_cores for one in seen]),
        stolen_cores=_worst([one.stolen_cores for one in seen]),
        load=seen[-1].load,
    )
    return dataclasses.replace(
        parts[0],
        samples_ms=tuple(sample for part in parts for sample in part.samples_ms),
        rounds=tuple(size for part in parts for size in part.rounds),
        conditions=conditions,
    )


def drawn_rounds(rounds: int, launches: int, times: int) -> np.ndarray:
    """Which rounds each bootstrap draw takes: launches with replacement, then rounds within each.

    Args:
        rounds: how many there are, launch after launch.
        launches: how many launches share them out; 0 or one that does not divide counts as one.
        times: draws.

    Returns:
        (times, rounds) indices.
    """
    launches = launches if launches > 0 and rounds % launches == 0 else 1
    each, generator = rounds // launches, np.random.default_rng(0)
    launch = generator.integers(0, launches, (times, launches, 1))
    within = generator.integers(0, each, (times, launches, each))
    return (launch * each + within).reshape(times, rounds)


def _worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _level(value: float, limits: tuple[float, float]) -> int:
    return sum(value > limit for limit in limits)


def _sketch(samples: np.ndarray) -> np.ndarray:
    if len(samples) <= _SKETCH:
        return samples
    return np.quantile(samples, (np.arange(_SKETCH) + 0.5) / _SKETCH)
