"""The Gaussian process over networks: against scikit-learn's, and against losses that are known."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from efficientformer.architecture import Architecture
from efficientformer.search.policies.gaussian_process import GaussianProcess, draw
from efficientformer.search.space.search_space import IDENTITY
from tests.search.made_up import CHOICES


def networks(count: int, seed: int = 0) -> list[Architecture]:
    generator = random.Random(seed)
    return [CHOICES.sample(generator) for _ in range(count)]


def loss(network: Architecture) -> float:
    """Made up, and no sum over places: what a block is worth depends on its stage's width and depth."""
    worth = 0.0
    for stage, width in zip(network.stages, network.widths, strict=True):
        live = [block for block in stage.blocks if block.kind != IDENTITY]
        worth += np.log2(width) * np.sqrt(1 + len(live) + sum(block.kind == "ffn" for block in live))
    return 3 - 0.05 * worth


def fitted(known: Sequence[Architecture], scale: float = 1.0) -> GaussianProcess:
    return GaussianProcess(CHOICES, known, [scale * loss(one) for one in known])


def test_it_predicts_what_scikit_learn_predicts() -> None:
    known, others = networks(60), networks(20, seed=1)
    process = fitted(known)
    losses = np.array([loss(one) for one in known])
    mean, spread = losses.mean(), losses.std()
    rows, scale = process._features(known), process._scale
    noise = float((process._factor @ process._factor.T)[0, 0]) - 1.0
    kernel = ConstantKernel(scale) * RBF(process._length) + WhiteKernel(scale * noise)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(rows, (losses - mean) / spread)
    expected, covariance = theirs.predict(process._features(others), return_cov=True)
    ours, ours_covariance = process.predict(others)
    assert ours == pytest.approx(mean + spread * expected, abs=1e-6)
    own_noise = spread**2 * scale * noise * np.eye(len(others))  # theirs is of an observation
    assert ours_covariance + own_noise == pytest.approx(spread**2 * covariance, abs=1e-6)
    unlikely = {
        length: -theirs.log_marginal_likelihood(np.log([scale, length, scale * noise]))
        for length in (2.0, 3.0, 4.5, 7.0, 10.0)
    }
    assert unlikely[process._length] == min(unlikely.values())


def test_it_ranks_networks_that_were_not_scored() -> None:
    known, others = networks(120), networks(100, seed=1)
    mean, covariance = fitted(known).predict(others)
    true = np.array([loss(one) for one in others])
    assert np.corrcoef(mean, true)[0, 1] > 0.95
    off = np.abs(mean - true) / np.sqrt(np.diag(covariance))
    assert 0.2 < np.median(off) < 2.0  # 0.67, were all as supposed


def test_it_is_surer_of_networks_like_those_scored() -> None:
    known, others = networks(40), networks(40, seed=1)
    process = fitted(known)
    at_known, at_others = (np.diag(process.predict(some)[1]).mean() for some in (known, others))
    assert at_known < 0.5 * at_others


@pytest.mark.parametrize("known", [networks(1), networks(2), 5 * networks(1)])
def test_few_or_equal_networks_will_do(known: list[Architecture]) -> None:
    mean, covariance = fitted(known).predict(networks(5, seed=1))
    assert np.isfinite(mean).all() and np.isfinite(covariance).all()
    assert np.isfinite(draw(mean, covariance, np.random.default_rng(0), 3)).all()


def test_losses_in_other_units_are_predicted_in_those_units() -> None:
    known, others = networks(30), networks(10, seed=1)
    (mean, covariance), (large, wide) = (fitted(known, scale).predict(others) for scale in (1.0, 100.0))
    assert large == pytest.approx(100 * mean)
    assert wide == pytest.approx(1e4 * covariance, rel=1e-4, abs=1e-6)


def test_draws_have_the_mean_and_covariance_asked_for() -> None:
    mean, covariance = fitted(networks(20)).predict(networks(4, seed=1))
    drawn = draw(mean, covariance, np.random.default_rng(0), 20_000)
    spread = np.sqrt(np.diag(covariance))
    assert drawn.mean(0) == pytest.approx(mean, abs=0.05 * spread.max())
    assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.05 * spread.max() ** 2)
