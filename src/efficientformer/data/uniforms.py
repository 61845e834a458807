"""Random numbers as a function of (seed, stream, number): the same however images are dealt out."""

from __future__ import annotations

import numpy as np

CROP = 1  # streams: one for each kind of chance
RAND_AUGMENT = 2
MIXING = 3
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, stream: int, numbers: np.ndarray, count: int) -> np.ndarray:
    """Draws for each of some numbered things: float64 (count, n), in [0, 1).

    Each number has its own splitmix64 generator (Steele et al., OOPSLA 2014) that starts at a hash of seed,
    stream and number; no state is kept.

    Args:
        seed: of the training.
        stream: what the draws are for; two streams have nothing in common.
        numbers: int64 (n,).
        count: draws for each number.
    """
    start = np.zeros(1, np.uint64)
    for part in (np.array([seed]), np.array([stream]), numbers):
        start = _mixed(start + part.astype(np.uint64) + _GOLDEN)
    steps = np.arange(1, count + 1, dtype=np.uint64)[:, None]
    return (_mixed(start + steps * _GOLDEN) >> np.uint64(11)) * 2.0**-53


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Splitmix64's hash of 64 bits, a bijection."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
