"""How two receipts of one interleaved run compare, and what that says of the paper's claim.

The two variants take turns round by round, so their ratio is taken within each round, where a slow spell of
the machine has fallen on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from efficientformer.latency.measurement import Measurement, drawn_rounds
from efficientformer.study.experiment import Expect, Experiment, Variant

BAND = 0.03  # less is within what two runs of one file differ by
FLAT = 0.10  # "no difference" is said only if more than this is ruled out
_RESAMPLES = 2000

Direction = Literal["faster", "slower", "equal", "unclear"]
SAME, REVERSED, NO_DIFFERENCE = "same as the paper", "reversed", "no difference here"
UNDECIDED, INEXPRESSIBLE, NO_CLAIM = "not decided", "cannot be expressed", "not in the paper"


@dataclass(frozen=True)
class Ratio:
    """A variant's latency over its baseline's, with a 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def direction(self) -> Direction:
        """Faster or slower if the whole interval is more than 3 % off; equal if all of it is within 10 %."""
        if self.high < 1 - BAND:
            return "faster"
        if self.low > 1 + BAND:
            return "slower"
        return "equal" if self.low >= 1 - FLAT and self.high <= 1 + FLAT else "unclear"

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """One row of the study: a variant against its baseline on one target.

    Attributes:
        variant: its name.
        ratio: of the latencies; None if there are none.
        direction: how it compares here; `unclear` if that cannot be said.
        verdict: against the paper: `same as the paper`, `reversed`, `no difference here`, `not decided`,
            `cannot be expressed`, or `not in the paper`.
        why: why it is not decided or cannot be expressed; empty otherwise.
        follows: for a design on this device; empty if nothing does.
    """

    variant: str
    ratio: Ratio | None
    direction: Direction
    verdict: str
    why: str = ""
    follows: str = ""


def paired_ratio(baseline: Measurement, variant: Measurement) -> Ratio:
    """The ratio of two receipts of one interleaved run.

    Its value is the median over rounds of the ratio of the two medians in a round. Its interval is a
    bootstrap that draws launches, then rounds within each: two launches of one program differ by where its
    memory lies, so the rounds of one launch are not independent.

    Raises:
        ValueError: if they do not have the same rounds.
    """
    below, above = ([float(np.median(part)) for part in one.by_round()] for one in (baseline, variant))
    if len(below) != len(above):
        raise ValueError(f"{variant.model} has {len(above)} rounds, {baseline.model} {len(below)}")
    logs = np.log(above) - np.log(below)
    draws = drawn_rounds(len(logs), baseline.conditions.launches, _RESAMPLES)
    medians = np.median(logs[draws], axis=1)
    low, high = np.exp(np.quantile(medians, (0.025, 0.975)))
    value = float(np.exp(np.median(logs)))
    return Ratio(value, min(float(low), value), max(float(high), value))


def compared(
    experiment: Experiment, receipts: Mapping[str, Measurement], failures: Mapping[str, str]
) -> tuple[Comparison, ...]:
    """Every variant of an experiment against its baseline.

    Args:
        experiment: what was tried.
        receipts: by variant, of one interleaved run.
        failures: why a variant has none.
    """
    return tuple(_compared(experiment, one, receipts, failures) for one in experiment.variants)


def _compared(
    experiment: Experiment, variant: Variant, receipts: Mapping[str, Measurement], failures: Mapping[str, str]
) -> Comparison:
    for name in (variant.name, experiment.baseline.name):
        if name in failures:
            whose = "" if name == variant.name else f"the baseline, {name}: "
            return Comparison(variant.name, None, "unclear", INEXPRESSIBLE, whose + failures[name])
    pair = [receipts[experiment.baseline.name], receipts[variant.name]]
    ratio = paired_ratio(*pair)
    if why := _unusable(pair) or _unclear(ratio):
        return Comparison(variant.name, ratio, "unclear", UNDECIDED, why)
    verdict = against_paper(variant.expect, ratio.direction)
    return Comparison(
        variant.name, ratio, ratio.direction, verdict, "", _follows(experiment, variant, ratio.direction)
    )


def against_paper(expect: Expect | None, direction: Direction) -> str:
    """The verdict on the paper's claim, from a direction that is clear."""
    if expect is None:
        return NO_CLAIM
    if expect == "no slower":
        return REVERSED if direction == "slower" else SAME
    if direction == "equal":
        return NO_DIFFERENCE
    return SAME if direction == expect else REVERSED


def _unusable(receipts: Sequence[Measurement]) -> str:
    """Why the first receipt that is unusable is so; the baseline's reasons are shared by all its rows."""
    bad = next((one for one in receipts if one.verdict == "unusable"), None)
    return f"Timing of “{bad.model}” unusable: {'; '.join(bad.reasons)}." if bad else ""


def _unclear(ratio: Ratio) -> str:
    if ratio.direction != "unclear":
        return ""
    return f"The ratio is only known to lie between {ratio.low:.2f} and {ratio.high:.2f}; measure for longer."


def _follows(experiment: Experiment, variant: Variant, direction: Direction) -> str:
    if variant.follows:
        return variant.follows
    text = {
        "faster": experiment.follows.faster,
        "slower": experiment.follows.slower,
        "equal": experiment.follows.equal,
    }[direction]
    return text.format(variant=variant.name, baseline=experiment.baseline.name)
