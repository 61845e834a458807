"""Calibration: from sums of rows to whole networks.

    latency = scale · (a · call + Σ over layers of max(a_kind · row + each, FLOOR · a_kind · row))

Rows hold what a network has not: when a chain is timed the core's own cache has just been emptied, of code
and tables too, so `each` is below zero, a few microseconds. That makes no layer free, or a search for a small
network would fill it up with them: `FLOOR` of its row is left. And networks show what rows do not, such as
changes of layout between kinds. So a few whole networks are measured, and factors by kind of layer are fitted
to them, shrunk to a common one, as so few networks cannot tell many factors apart. The errors are relative,
and large ones weigh less (soft L1): one network that meets another machine than the others, such as one whose
weights leave the cache, does not bend the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize

SHRINK = 0.3  # a factor 10 % off the common one weighs as a network that is 3 % off
SHRINK_EACH = 0.1  # `each` of a tenth of the mean row weighs as a network that is 1 % off
FLOOR = 0.3  # of its row a layer costs at least
SOFT = 0.02  # relative errors from here on count by their size, no longer by their square
_STEPS = 30


@dataclass(frozen=True)
class Fit:
    """A calibration.

    Attributes:
        a: the common factor of rows, and that of the call.
        each: milliseconds that every layer has more than its row.
        residual: root mean square of the relative errors on the networks it was fitted to.
        factors: of rows by kind of layer; a kind that is not here has the common one.
        networks: how many it was fitted to.
        reference_ms: the reference network's median in the runs that timed them: the machine's speed that
            predictions are for; None if it was not timed.
    """

    a: float = 1.0
    each: float = 0.0
    residual: float = 0.0
    factors: Mapping[str, float] = field(default_factory=dict)
    networks: int = 0
    reference_ms: float | None = None

    def factor(self, kind: str) -> float:
        """What rows of a kind are multiplied by."""
        return self.factors.get(kind, self.a)

    def layer_ms(self, kind: str, row_ms: float) -> float:
        """What a layer of a kind costs, by its row; never below a share of that."""
        scaled_ms = self.factor(kind) * row_ms
        return max(FLOOR * scaled_ms, scaled_ms + self.each)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fit:
        """The fit that `dataclasses.asdict` made a document of."""
        return cls(**document)


@dataclass(frozen=True)
class Parts:
    """What a network's latency is made of, not calibrated: of the call and of each kind of layer, ms."""

    call_ms: float
    kinds_ms: Mapping[str, float]
    layers: int


def fitted(networks: Sequence[tuple[Parts, float]]) -> Fit:
    """Fit the factors to (parts, measured ms) of whole networks.

    Unknowns are each kind's factor and `each`; the floor is left out, which few layers come to. The call's
    factor is the kinds' mean, as is what each of them is shrunk to.
    """
    kinds = sorted({kind for parts, _ in networks for kind in parts.kinds_ms})
    measured = np.array([ms for _, ms in networks])
    mean_row = sum(sum(parts.kinds_ms.values()) for parts, _ in networks) / sum(p.layers for p, _ in networks)
    rows = [
        [parts.kinds_ms.get(kind, 0.0) + parts.call_ms / len(kinds) for kind in kinds]
        + [mean_row * parts.layers]
        for parts, _ in networks
    ]
    relative = np.array(rows) / measured[:, None]
    found = _solve(relative, len(kinds))
    *factors, share = map(float, found)
    named = dict(zip(kinds, factors, strict=True))
    residual = float(np.sqrt(np.mean((relative @ found - 1) ** 2)))
    return Fit(float(np.mean(factors)), share * mean_row, residual, named, len(networks))


def _solve(relative: np.ndarray, kinds: int) -> np.ndarray:
    """Least squares, reweighted until large errors count by their size; factors are not below 0.

    The last unknown is `each`, as a share of the mean row.
    """
    shrink = np.zeros((kinds + 1, kinds + 1))
    shrink[:kinds, :kinds] = SHRINK * (np.eye(kinds) - 1 / kinds)
    shrink[kinds, kinds] = SHRINK_EACH
    wanted = np.concatenate([np.ones(len(relative)), np.zeros(kinds + 1)])
    weights = np.ones(len(wanted))
    least = np.array([0.0] * kinds + [-1.0])
    for _ in range(_STEPS):
        scaled = np.vstack([relative, shrink]) * weights[:, None]
        solved = scipy.optimize.lsq_linear(scaled, wanted * weights, (least, np.inf), method="bvls")
        found = np.maximum(least, solved.x)  # it may be below by a rounding error
        errors = (relative @ found - 1) / SOFT
        weights[: len(relative)] = (1 + errors**2) ** -0.25
    return found
