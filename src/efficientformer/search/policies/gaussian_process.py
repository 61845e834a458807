"""What scored networks say of others: a Gaussian process over what networks are made of.

Losses of networks of one latency hardly add up over places: what a block is worth depends on how deep and how
wide its stage is. So nothing additive is fitted: networks that are made alike are held to have losses alike,
and how quickly that wears off is read from the scores (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapters 2 and 5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from efficientformer.architecture import Architecture
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.search_space import IDENTITY

# How far apart a difference puts two networks: a stage of twice the width lies about as far as one with two
# blocks of another kind; where in its stage a block is matters less than whether it is there.
_WIDTH, _DEPTH, _COUNT, _PLACE, _WHOLE = 2.0, 1.5, 1.0, 0.4, 1.0
_LENGTHS = (2.0, 3.0, 4.5, 7.0, 10.0)  # distances over which likeness wears off
_NOISE = (0.02, 0.05, 0.1, 0.2, 0.4)  # variance of what alike networks differ by, over that of all
_JITTER = 1e-6


class GaussianProcess:
    """A process fitted to scored networks, of the length and noise under which the scores are likeliest.

    Args:
        choices: what each place can have.
        networks: identities in place.
        losses: of each.
    """

    def __init__(self, choices: Choices, networks: Sequence[Architecture], losses: Sequence[float]) -> None:
        self._choices = choices
        self._rows = self._features(networks)
        self._mean, self._spread = float(np.mean(losses)), float(np.std(losses)) or 1.0
        self._losses = (np.array(losses) - self._mean) / self._spread
        found = (self._with(length, noise) for length, noise in itertools.product(_LENGTHS, _NOISE))
        _, self._length, self._factor, self._weights, self._scale = min(found, key=lambda one: one[0])

    def predict(self, networks: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Expected losses (N,) and their covariance (N, N)."""
        rows = self._features(networks)
        beside = _likeness(self._rows, rows, self._length)
        known = solve_triangular(self._factor, beside, lower=True)
        covariance = self._scale * (_likeness(rows, rows, self._length) - known.T @ known)
        return self._mean + self._spread * beside.T @ self._weights, self._spread**2 * covariance

    def _with(self, length: float, noise: float) -> tuple[float, float, np.ndarray, np.ndarray, float]:
        """Minus the log likelihood, up to a constant, with the length; and what predictions need.

        The scale of the process is the likeliest for the two: it has a closed form.
        """
        count = len(self._losses)
        factor = np.linalg.cholesky(_likeness(self._rows, self._rows, length) + noise * np.eye(count))
        weights = cho_solve((factor, True), self._losses)
        scale = max(float(self._losses @ weights) / count, _JITTER)
        unlikely = 0.5 * count * math.log(scale) + float(np.log(np.diag(factor)).sum())
        return unlikely, length, factor, weights, scale

    def _features(self, networks: Sequence[Architecture]) -> np.ndarray:
        return np.array([list(_features(self._choices, one)) for one in networks])


def draw(mean: np.ndarray, covariance: np.ndarray, generator: np.random.Generator, count: int) -> np.ndarray:
    """Samples of losses with this mean (N,) and covariance (N, N): (count, N)."""
    some = np.eye(len(mean)) * _JITTER * max(float(np.diag(covariance).max()), _JITTER)
    factor = np.linalg.cholesky(covariance + some)
    return mean + generator.normal(size=(count, len(mean))) @ factor.T


def _likeness(ones: np.ndarray, others: np.ndarray, length: float) -> np.ndarray:
    """1 for networks made alike, falling with the square of their distance: (ones, others)."""
    squares = (ones**2).sum(1)[:, None] + (others**2).sum(1) - 2 * ones @ others.T
    return np.exp(-np.maximum(squares, 0.0) / (2 * length**2))


def _features(choices: Choices, network: Architecture) -> Iterator[float]:
    """What a network is made of, in numbers whose differences are distances."""
    for stage, blocks in enumerate(one.blocks for one in network.stages):
        live = [block for block in blocks if block.kind != IDENTITY]
        yield _WIDTH * math.log2(network.widths[stage])
        yield _DEPTH * math.sqrt(len(live))
        yield _COUNT * sum(math.log2(block.expansion) for block in live)
        for kind in choices.space.paths(stage):
            here = [float(block.kind == kind) for block in blocks]
            yield _COUNT * sum(here)
            yield from (_PLACE * one for one in here)
        yield from (_PLACE * math.log2(one.expansion) if one in live else 0.0 for one in blocks)
    yield from (_WHOLE * (network.activation == one) for one in choices.space.every_activation)
    yield from (_WHOLE * (network.stem == one) for one in choices.space.every_stem)
    yield _WIDTH * math.log2(network.input_size[0])
