"""Calibration: factors found again, shrunk, bounded, and little moved by a network that is out of line."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.latency.table.fit import FLOOR, SHRINK, SHRINK_EACH, SOFT, Fit, Parts, fitted

KINDS = ("attention", "embed", "ffn", "head", "pool", "stem")


def parts(count: int, seed: int = 0) -> list[Parts]:
    """Networks whose kinds differ freely."""
    draw = random.Random(seed)
    return [
        Parts(
            0.01,
            {kind: draw.uniform(0.02, 1) for kind in KINDS},
            draw.randint(8, 24),
        )
        for _ in range(count)
    ]


def ms(fit: Fit, one: Parts) -> float:
    rows = sum(fit.factor(kind) * own for kind, own in one.kinds_ms.items())
    return fit.a * one.call_ms + rows + fit.each * one.layers


@pytest.mark.parametrize("a", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("count", [3, 5, 14])
def test_a_common_factor_is_found_by_few_networks(a: float, count: int) -> None:
    known = [(one, ms(Fit(a), one)) for one in parts(count)]
    fit = fitted(known)
    assert fit.networks == count
    assert (fit.a, fit.each) == pytest.approx((a, 0.0), abs=1e-6)
    assert fit.factors == pytest.approx(dict.fromkeys(KINDS, a))
    assert fit.residual == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("each", [-0.01, 0.0, 0.02])
def test_what_every_layer_has_beside_its_row_is_found(each: float) -> None:
    true = Fit(1.1, each)
    fit = fitted([(one, ms(true, one)) for one in parts(40)])
    assert fit.each == pytest.approx(each, abs=0.002)
    assert fit.residual < 0.003


def test_no_layer_is_free() -> None:
    fit = Fit(1.0, -0.01, factors={"pool": 2.0})
    assert fit.layer_ms("pool", 0.02) == pytest.approx(0.03)
    assert fit.layer_ms("ffn", 0.02) == pytest.approx(0.01)
    assert fit.layer_ms("ffn", 0.009) == pytest.approx(FLOOR * 0.009)


def test_many_networks_tell_kinds_apart_and_few_less() -> None:
    def found(count: int) -> float:
        true = Fit(1.0, factors={**dict.fromkeys(KINDS, 1.0), "attention": 1.3})
        return fitted([(one, ms(true, one)) for one in parts(count)]).factor("attention")

    assert 1.0 < found(3) < found(14) < found(400) < 1.3
    assert found(400) == pytest.approx(1.3, abs=0.05)


@given(known=st.lists(st.floats(0.1, 10), min_size=3, max_size=8), seed=st.integers(0, 50))
def test_no_factor_is_negative(known: list[float], seed: int) -> None:
    fit = fitted(list(zip(parts(len(known), seed), known, strict=True)))
    assert min(fit.a, *fit.factors.values()) >= 0


def test_a_kind_that_no_network_has_gets_the_common_factor() -> None:
    def without(one: Parts) -> Parts:
        kinds: Mapping[str, float] = {kind: own for kind, own in one.kinds_ms.items() if kind != "ffn"}
        return Parts(one.call_ms, kinds, one.layers)

    fit = fitted([(without(one), 2 * ms(Fit(), without(one))) for one in parts(8)])
    assert "ffn" not in fit.factors
    assert fit.factor("ffn") == fit.a == pytest.approx(2)


def test_one_network_out_of_line_hardly_bends_the_others() -> None:
    networks = parts(12)
    true = [ms(Fit(), one) for one in networks]
    fit = fitted(
        [
            (one, own * (1.3 if index == 0 else 1))
            for index, (one, own) in enumerate(zip(networks, true, strict=True))
        ]
    )
    errors = [abs(ms(fit, one) / own - 1) for one, own in zip(networks[1:], true[1:], strict=True)]
    assert statistics.median(errors) < 0.01
    assert fit.residual > 0.05  # it is not hidden


def test_the_fit_is_the_least_of_its_loss() -> None:
    """Against scipy's own minimiser of the same soft-L1 loss with the same shrinking."""
    noise = random.Random(3)
    known = [(one, ms(Fit(), one) * noise.uniform(0.85, 1.15)) for one in parts(14)]

    mean_row = statistics.fmean(sum(one.kinds_ms.values()) for one, _ in known) / statistics.fmean(
        one.layers for one, _ in known
    )

    def loss(x: np.ndarray) -> float:
        factors, share = x[:-1], float(x[-1])
        named = dict(zip(KINDS, factors, strict=True))
        fit = Fit(float(np.mean(factors)), share * mean_row, factors=named)
        errors = [(ms(fit, one) / own - 1) / SOFT for one, own in known]
        soft = sum(2 * SOFT**2 * (math.sqrt(1 + error**2) - 1) for error in errors)
        shrunk = SHRINK**2 * float(np.sum((factors - np.mean(factors)) ** 2))
        return soft + shrunk + (SHRINK_EACH * share) ** 2

    fit = fitted(known)
    ours = np.array([*(fit.factors[kind] for kind in KINDS), fit.each / mean_row])
    bounds = [(0, None)] * 6 + [(-1, None)]
    best = scipy.optimize.minimize(loss, ours, bounds=bounds, method="L-BFGS-B", tol=1e-14)
    assert loss(ours) <= best.fun * (1 + 1e-4)
    far = scipy.optimize.minimize(loss, np.ones(7) * 0.5, bounds=bounds, method="L-BFGS-B", tol=1e-14)
    assert loss(ours) <= far.fun * (1 + 1e-4)


def test_the_residual_is_the_relative_error_that_is_left() -> None:
    noise = random.Random(1)
    known = [(one, ms(Fit(), one) * noise.uniform(0.9, 1.1)) for one in parts(9)]
    fit = fitted(known)
    errors = [ms(fit, one) / own - 1 for one, own in known]
    assert fit.residual == pytest.approx(math.sqrt(statistics.fmean(error**2 for error in errors)))
    assert fit.residual > 0.01
