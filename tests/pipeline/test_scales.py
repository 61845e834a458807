"""Scales closed in on from both sides."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.pipeline.scales import CLOSE, next_scale


@pytest.mark.parametrize(
    ("tried", "own", "scale"),
    [
        ([(1.0, 1.2)], 1.2, 1.2),  # over: greater by as much
        ([(1.0, 0.8)], 0.8, 0.8),
        ([(1.0, 1.2), (1.2, 0.8)], 1.1, 1.1),
        ([(1.0, 1.2), (1.2, 0.8)], 0.9, math.sqrt(1.2)),  # back to where it came from: halfway instead
        ([(1.0, 1.2), (1.2, 0.8)], 1.0, math.sqrt(1.2)),
        ([(1.0, 1.2), (1.2, 0.8), (1.1, 1.1)], 1.3, math.sqrt(1.1 * 1.2)),
        ([(1.0, 1.2), (1.002, 0.8)], 1.3, None),  # nothing between them
        ([(1.2, 1.2), (1.0, 0.8)], 1.1, None),  # greater scales led to greater networks
        ([(1.0, 0.8)], 1.1, None),  # under it, though predicted to be yet smaller
    ],
)
def test_next_scale(tried: list[tuple[float, float]], own: float, scale: float | None) -> None:
    assert next_scale(tried, own, 1.0) == (None if scale is None else pytest.approx(scale))


@given(st.floats(0.5, 2.0), st.floats(0.7, 1.4), st.floats(0.7, 1.4))
def test_a_jump_is_closed_in_on(jump_at: float, above: float, below: float) -> None:
    """Networks found at scales under the jump take `above` what they are predicted to, the others `below`."""
    tried: list[tuple[float, float]] = []
    scale: float | None = 1.0
    while scale is not None:
        factor = above if scale < jump_at else below
        tried.append((scale, factor / scale))
        if abs(tried[-1][1] - 1) < CLOSE - 1:
            return  # met, all but for what makes no difference
        scale = next_scale(tried, factor, 1.0)
        assert len(tried) < 20
    over = max((one for one, took in tried if took > 1), default=0.0)
    under = min((one for one, took in tried if took <= 1), default=math.inf)
    assert under <= CLOSE * over
