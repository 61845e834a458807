"""Where to look next for a network of a budget: the latency table's scale, closed in on from both sides.

A search finds networks that the table predicts to meet the budget. The greater the table's scale, the smaller
these are. So a scale that led to a network over the budget is too small, and one that led under it too great.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CLOSE = 1.003  # scales nearer to each other than this lead to the same networks


def next_scale(tried: Sequence[tuple[float, float]], own: float, budget_ms: float) -> float | None:
    """The scale to search at next.

    Args:
        tried: scales that were searched at, each with what the network found there took, in ms.
        own: the scale at which the network found last is predicted as it was measured.
        budget_ms: the budget.

    Returns:
        the network's own scale, if it lies between those that led over the budget and those that led under
        it; what lies halfway between them, if not; None where they leave nothing between.
    """
    low = max((scale for scale, took_ms in tried if took_ms > budget_ms), default=0.0)
    high = min((scale for scale, took_ms in tried if took_ms <= budget_ms), default=math.inf)
    if CLOSE * low < own < high / CLOSE:
        return own
    if low == 0.0 or math.isinf(high) or high <= CLOSE * low:
        return None
    return math.sqrt(low * high)
