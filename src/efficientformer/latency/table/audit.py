"""How far predictions are from end to end: figures of networks that the table was not calibrated to.

A prediction is for a machine as fast as when the table was calibrated. Networks are measured in batches later
on; how fast the machine was then, the reference network tells that was timed among them. So a prediction is
held against what the network takes at the calibration's speed, and the figures without that are given, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import scipy.stats

from efficientformer.architecture import Architecture
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table.chains import at_speed
from efficientformer.latency.table.fit import Fit
from efficientformer.latency.table.table import Prediction

FORMAT = "efficientformer.table-audit/1"


@dataclass(frozen=True)
class Held:
    """One held-out network: what the table said before it was measured, and what it takes.

    Attributes:
        architecture: the network.
        predicted: by the table.
        measured: its receipt.
        reference_ms: the reference network's median when the table was calibrated; None if not known.
    """

    architecture: Architecture
    predicted: Prediction
    measured: Measurement
    reference_ms: float | None = None

    @property
    def took_ms(self) -> float:
        """What it takes on a machine as fast as when the table was calibrated."""
        return at_speed(self.measured, self.reference_ms)

    @property
    def error(self) -> float:
        """Predicted over measured at that speed, less 1."""
        return self.predicted.ms / self.took_ms - 1

    @property
    def raw_error(self) -> float:
        """The same as measured, however fast the machine was then."""
        return self.predicted.ms / self.measured.median_ms - 1

    @property
    def within(self) -> bool:
        """Whether the latency lies in the prediction's interval."""
        return abs(self.predicted.ms - self.took_ms) <= self.predicted.plus_minus_ms

    def to_json(self) -> dict[str, Any]:
        """The network, both latencies and the receipt's summary; samples are left out."""
        whole = self.measured.to_json()
        kept = ("median_ms", "p10_ms", "p90_ms", "interval_ms", "verdict", "date")
        return {
            "network": str(self.architecture),
            "architecture": self.architecture.to_json(),
            "predicted_ms": self.predicted.ms,
            "plus_minus_ms": self.predicted.plus_minus_ms,
            "error_percent": 100 * self.error,
            "raw_error_percent": 100 * self.raw_error,
            "at_calibration_speed_ms": self.took_ms,
            "reference_ms": self.measured.conditions.reference_ms,
            **{f"measured_{key}" if key.endswith("ms") else key: whole[key] for key in kept},
            "samples": len(self.measured.samples_ms),
        }


@dataclass(frozen=True)
class Audit:
    """A table held against networks it has not seen.

    Attributes:
        target: where.
        held: the networks; three at least.
        fit: the calibration that predicted them.
        seed: of their draw.
        seconds: that the audit took.
    """

    target: str
    held: Sequence[Held]
    fit: Fit
    seed: int
    seconds: float

    @property
    def median_error(self) -> float:
        """Median of the absolute relative errors."""
        return statistics.median(abs(one.error) for one in self.held)

    @property
    def max_error(self) -> float:
        """The largest of them."""
        return max(abs(one.error) for one in self.held)

    @property
    def spearman(self) -> float:
        """Rank correlation of predicted and measured latencies."""
        return self._rank([one.took_ms for one in self.held])

    def _rank(self, took_ms: Sequence[float]) -> float:
        return float(scipy.stats.spearmanr([one.predicted.ms for one in self.held], took_ms)[0])

    @property
    def bias(self) -> float:
        """Median of the signed errors: what a scale would take away."""
        return statistics.median(one.error for one in self.held)

    def raw(self) -> dict[str, Any]:
        """The figures of latencies as they were measured; and how much slower the machine was in batches."""
        errors = [abs(one.raw_error) for one in self.held]
        slowed = [one.measured.median_ms / one.took_ms for one in self.held]
        return {
            "median_error_percent": 100 * statistics.median(errors),
            "max_error_percent": 100 * max(errors),
            "spearman": self._rank([one.measured.median_ms for one in self.held]),
            "slowed": [min(slowed), max(slowed)],
        }

    def to_json(self) -> dict[str, Any]:
        """Every figure, and every network."""
        return {
            "format": FORMAT,
            "target": self.target,
            "networks": len(self.held),
            "median_error_percent": 100 * self.median_error,
            "max_error_percent": 100 * self.max_error,
            "bias_percent": 100 * self.bias,
            "spearman": self.spearman,
            "raw": self.raw(),
            "within_interval": statistics.fmean(one.within for one in self.held),
            "spread_percent": 100 * statistics.median(one.measured.spread for one in self.held),
            "verdicts": {
                verdict: sum(one.measured.verdict == verdict for one in self.held)
                for verdict in ("stable", "noisy", "unusable")
            },
            "date": self.held[0].measured.date,
            "fingerprint": self.held[0].measured.fingerprint,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "fit": asdict(self.fit),
            "held": [one.to_json() for one in self.held],
        }
