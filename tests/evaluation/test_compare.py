"""Paired comparisons, against SciPy and a bootstrap."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from efficientformer.errors import InputError
from efficientformer.evaluation.compare import Comparison, compare

LABELS = np.array([0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("guesses", "agreement", "lost", "won"),
    [
        ([0, 1, 1, 1, 2], 1.0, 0, 0),  # the reference's own
        ([0, 0, 1, 1, 2], 0.8, 0, 1),
        ([1, 1, 1, 1, 2], 0.8, 1, 0),
        ([0, 2, 1, 1, 2], 0.8, 0, 0),  # another wrong class: agreement alone falls
        ([1, 0, 0, 0, 0], 0.0, 4, 1),
    ],
)
def test_pictures_are_counted_in_pairs(guesses: list[int], agreement: float, lost: int, won: int) -> None:
    reference = np.array([0, 1, 1, 1, 2])
    found = compare("b", np.array(guesses), "a", reference, LABELS)
    assert (found.agreement, found.lost, found.won, found.images) == (agreement, lost, won, 5)
    top1 = (np.array(guesses) == LABELS).mean() - (reference == LABELS).mean()
    assert found.difference == pytest.approx(top1)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_test_is_mcnemars_exact_one(lost: int, won: int) -> None:
    found = Comparison("b", "a", 500, 0.9, lost, won).p_value
    fewer, differing = min(lost, won), lost + won
    assert found == pytest.approx(min(1.0, 2 * binom.cdf(fewer, differing, 0.5)))


@pytest.mark.parametrize(("lost", "won", "images"), [(40, 20, 1000), (100, 130, 2000), (300, 50, 5000)])
def test_the_interval_is_near_a_paired_bootstraps(lost: int, won: int, images: int) -> None:
    differences = np.repeat([-1, 1, 0], [lost, won, images - lost - won])
    random = np.random.default_rng(0)
    means = [random.choice(differences, images).mean() for _ in range(2000)]
    low, high = Comparison("b", "a", images, 0.9, lost, won).interval
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.08 * (high - low))


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_holds_the_difference_and_never_shrinks_to_nothing(
    images: int, differing: float, share: float
) -> None:
    both = round(differing * images)
    won = round(share * both)
    found = Comparison("b", "a", images, 0.5, both - won, won)
    low, high = found.interval
    assert -1 <= low < high <= 1
    assert low <= found.difference * images / (images + 2) <= high
    swapped = Comparison("a", "b", images, 0.5, won, both - won).interval
    assert (-swapped[1], -swapped[0]) == pytest.approx((low, high))


def test_the_document_has_its_figures() -> None:
    found = Comparison("b", "a", 100, 0.97, 3, 1)
    document = json.loads(json.dumps(found.to_json()))
    assert document["difference"] == -0.02
    assert document["p_value"] == pytest.approx(0.625)
    assert document["interval"] == [round(side, 4) for side in found.interval]


def test_other_pictures_are_not_compared() -> None:
    with pytest.raises(InputError, match="b saw 4 pictures, a 5"):
        compare("b", LABELS[:4], "a", LABELS, LABELS)
