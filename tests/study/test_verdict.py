"""Ratios are taken in pairs, their intervals hold the truth, and verdicts follow from the interval."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from efficientformer.study.experiments import EXPERIMENTS
from efficientformer.study.verdict import (
    INEXPRESSIBLE,
    NO_CLAIM,
    NO_DIFFERENCE,
    REVERSED,
    SAME,
    UNDECIDED,
    Ratio,
    against_paper,
    compared,
    paired_ratio,
)
from tests.study.made import receipt, steady

PATCHES = next(one for one in EXPERIMENTS if one.name == "patch-16")
BASE, FULL, THIN = (one.name for one in PATCHES.all)
ACTIVATIONS = next(one for one in EXPERIMENTS if one.name == "activation-stage-1")


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [
        (0.5, 0.6, "faster"),
        (0.5, 0.969, "faster"),
        (0.5, 0.98, "unclear"),
        (1.031, 1.2, "slower"),
        (1.02, 1.2, "unclear"),
        (0.95, 1.08, "equal"),
        (0.90, 1.10, "equal"),
        (0.89, 1.05, "unclear"),
        (0.99, 1.04, "equal"),
        (0.5, 2.0, "unclear"),
    ],
)
def test_a_direction_needs_the_whole_interval(low: float, high: float, direction: str) -> None:
    assert Ratio((low + high) / 2, low, high).direction == direction


@pytest.mark.parametrize(
    ("expect", "direction", "verdict"),
    [
        ("faster", "faster", SAME),
        ("faster", "slower", REVERSED),
        ("faster", "equal", NO_DIFFERENCE),
        ("slower", "slower", SAME),
        ("slower", "faster", REVERSED),
        ("slower", "equal", NO_DIFFERENCE),
        ("no slower", "slower", REVERSED),
        ("no slower", "equal", SAME),
        ("no slower", "faster", SAME),
        (None, "slower", NO_CLAIM),
    ],
)
def test_the_verdict_is_on_the_papers_claim(expect, direction, verdict: str) -> None:
    assert against_paper(expect, direction) == verdict


def test_a_slow_spell_falls_on_both_and_leaves_the_ratio_alone() -> None:
    speed = np.array([1, 1, 5, 5, 1, 5, 5, 5, 1, 1, 5, 1.0])  # half the rounds run five times as long
    base = receipt(speed[:, None] * np.full((12, 5), 2.0), launches=3)
    other = receipt(speed[:, None] * np.full((12, 5), 3.0), launches=3)
    ratio = paired_ratio(base, other)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_launches_that_differ_widen_the_interval() -> None:
    quiet = receipt(np.full((12, 5), 1.0), launches=3)
    launches = np.repeat([1.0, 1.1, 1.2], 4)[:, None] * np.ones((12, 5))
    ratio = paired_ratio(quiet, receipt(launches, launches=3))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.0, 1.1, 1.2))


@pytest.mark.parametrize("launches", [0, 1, 3, 5])
def test_the_interval_holds_the_true_ratio(launches: int) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(60):
        spells = random.lognormal(0, 0.3, (12, 1))
        base, other = (
            receipt(ms * spells * random.lognormal(0, 0.05, (12, 7)), launches=launches) for ms in (1.0, 1.25)
        )
        ratio = paired_ratio(base, other)
        assert ratio.low <= ratio.value <= ratio.high
        held += ratio.low <= 1.25 <= ratio.high
    assert held >= 52


def test_receipts_of_different_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="b has 3 rounds, a 2"):
        paired_ratio(receipt([[1.0]] * 2, "a"), receipt([[1.0]] * 3, "b"))


@pytest.mark.parametrize(
    ("ms", "verdict", "follows"),
    [
        (0.5, SAME, "Start with four 3×3"),
        (2.0, REVERSED, "No gain here: one 16×16 convolution costs less"),
        (1.0, NO_DIFFERENCE, "Choose between four 3×3"),
    ],
)
def test_rows_tell_what_follows(ms: float, verdict: str, follows: str) -> None:
    receipts = {name: steady(time, name) for name, time in ((BASE, 1.0), (FULL, ms), (THIN, ms))}
    for row in compared(PATCHES, receipts, {}):
        assert row.verdict == verdict
        assert row.follows.startswith(follows)
        assert row.ratio is not None
        assert row.ratio.value == pytest.approx(ms, rel=0.01)
        assert row.why == ""


def test_without_a_claim_the_device_still_tells_what_follows() -> None:
    times = {"GELU": 1.0, "ReLU": 0.8, "HardSwish": 0.8, "SiLU": 0.8, "tanh-GELU": 1.5}
    rows = compared(ACTIVATIONS, {name: steady(ms, name) for name, ms in times.items()}, {})
    assert [row.verdict for row in rows] == [SAME, REVERSED, NO_CLAIM, NO_CLAIM]
    assert [row.follows for row in rows[2:]] == [
        "SiLU saves time over GELU here: worth a training run.",
        "Avoid tanh-GELU here: GELU costs less.",
    ]


def test_an_unusable_receipt_decides_nothing() -> None:
    wild = steady(9.0, FULL, noise=1.0)
    receipts = {BASE: steady(1.0, BASE), FULL: wild, THIN: steady(2.0, THIN)}
    full, thin = compared(PATCHES, receipts, {})
    assert (full.verdict, thin.verdict) == (UNDECIDED, REVERSED)
    assert full.why.startswith(f"Timing of “{FULL}” unusable: the interquartile range is")
    assert full.follows == ""
    assert full.ratio is not None


def test_a_wide_interval_decides_nothing() -> None:
    launches = np.repeat([[0.92], [1.15]], 6, axis=0) * np.ones((12, 9))
    receipts = {BASE: receipt(np.ones((12, 9)), BASE, 2), FULL: receipt(launches, FULL, 2)}
    row = compared(dataclasses.replace(PATCHES, variants=PATCHES.variants[:1]), receipts, {})[0]
    assert receipts[FULL].verdict == "noisy"
    assert (row.verdict, row.direction) == (UNDECIDED, "unclear")
    assert "only known to lie between 0.92 and 1.15" in row.why


def test_what_cannot_be_expressed_says_why() -> None:
    receipts = {BASE: steady(1.0, BASE), THIN: steady(2.0, THIN)}
    full, thin = compared(PATCHES, receipts, {FULL: "no operator for it"})
    assert (full.verdict, full.why, full.ratio) == (INEXPRESSIBLE, "no operator for it", None)
    assert thin.verdict == REVERSED
    both = compared(PATCHES, {FULL: steady(1.0), THIN: steady(1.0)}, {BASE: "crashed"})
    assert {row.why for row in both} == {f"the baseline, {BASE}: crashed"}
