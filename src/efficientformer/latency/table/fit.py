"""Calibration: from sums of rows to whole networks.

    latency = scale · (a · call + Σ over layers of (a_kind · row + b · megabytes of its weights)),   all ≥ 0

Rows leave out what only a whole network shows: weights that are streamed from further away than a few layers'
are, and changes of layout between kinds. So a few whole networks are measured, and factors by kind of layer
are fitted to them, shrunk to a common one, as so few networks cannot tell many factors apart. The errors are
relative, and large ones weigh less (soft L1): one network that meets another machine than the others, such
as one whose weights leave the cache, does not bend the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize

SHRINK = 0.3  # a factor 10 % off the common one weighs as a network that is 3 % off
SOFT = 0.02  # relative errors from here on count by their size, no longer by their square
_STEPS = 30


@dataclass(frozen=True)
class Fit:
    """A calibration.

    Attributes:
        a: the common factor of rows, and that of the call.
        b: milliseconds a megabyte of float32 weights.
        residual: root mean square of the relative errors on the networks it was fitted to.
        factors: of rows by kind of layer; a kind that is not here has the common one.
        networks: how many it was fitted to.
        reference_ms: the reference network's median in the runs that timed them: the machine's speed that
            predictions are for; None if it was not timed.
    """

    a: float = 1.0
    b: float = 0.0
    residual: float = 0.0
    factors: Mapping[str, float] = field(default_factory=dict)
    networks: int = 0
    reference_ms: float | None = None

    def factor(self, kind: str) -> float:
        """What rows of a kind are multiplied by."""
        return self.factors.get(kind, self.a)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fit:
        """The fit that `dataclasses.asdict` made a document of."""
        return cls(**document)


@dataclass(frozen=True)
class Parts:
    """What a network's latency is made of, not calibrated: of the call and of each kind of layer, ms."""

    call_ms: float
    kinds_ms: Mapping[str, float]
    megabytes: float


def fitted(networks: Sequence[tuple[Parts, float]]) -> Fit:
    """Fit the factors to (parts, measured ms) of whole networks.

    Unknowns are each kind's factor and b; the call's factor is the kinds' mean, as is what each is shrunk to.
    """
    kinds = sorted({kind for parts, _ in networks for kind in parts.kinds_ms})
    measured = np.array([ms for _, ms in networks])
    rows = [
        [parts.kinds_ms.get(kind, 0.0) + parts.call_ms / len(kinds) for kind in kinds] + [parts.megabytes]
        for parts, _ in networks
    ]
    relative = np.array(rows) / measured[:, None]
    found = _solve(relative, len(kinds))
    *factors, b = map(float, found)
    residual = float(np.sqrt(np.mean((relative @ found - 1) ** 2)))
    named = dict(zip(kinds, factors, strict=True))
    return Fit(float(np.mean(factors)), b, residual, named, len(networks))


def _solve(relative: np.ndarray, kinds: int) -> np.ndarray:
    """Least squares, no unknown below 0, reweighted until large errors count by their size."""
    shrink = np.zeros((kinds, kinds + 1))
    shrink[:, :kinds] = SHRINK * (np.eye(kinds) - 1 / kinds)
    wanted = np.concatenate([np.ones(len(relative)), np.zeros(kinds)])
    weights = np.ones(len(wanted))
    for _ in range(_STEPS):
        found, _ = scipy.optimize.nnls(np.vstack([relative, shrink]) * weights[:, None], wanted * weights)
        errors = (relative @ found - 1) / SOFT
        weights[: len(relative)] = (1 + errors**2) ** -0.25
    return found
