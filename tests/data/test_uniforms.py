from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.data.uniforms import _GOLDEN, _mixed, uniforms

NUMBERS = np.arange(20_000)


def test_hash_is_splitmix64() -> None:
    """The first outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567."""
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * _GOLDEN
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert _mixed(states).tolist() == expected


@given(st.integers(0, 2**63 - 1), st.integers(0, 9), st.lists(st.integers(0, 2**62), min_size=1), st.data())
def test_draws_are_the_same_however_numbers_are_dealt_out(
    seed: int, stream: int, numbers: list[int], data: st.DataObject
) -> None:
    all_of_them = np.array(numbers)
    some = np.array(data.draw(st.lists(st.sampled_from(range(len(numbers))), min_size=1)))
    whole = uniforms(seed, stream, all_of_them, 4)
    assert whole.shape == (4, len(numbers))
    assert ((whole >= 0) & (whole < 1)).all()
    assert np.array_equal(whole[:, some], uniforms(seed, stream, all_of_them[some], 4))
    assert np.array_equal(whole[:2], uniforms(seed, stream, all_of_them, 2))


@pytest.mark.parametrize(("seed", "stream"), [(0, 1), (0, 2), (1, 1), (2**40, 3)])
def test_draws_are_uniform(seed: int, stream: int) -> None:
    for row in uniforms(seed, stream, NUMBERS, 3):
        apart = np.abs(np.sort(row) - (NUMBERS + 0.5) / len(NUMBERS)).max()
        assert apart < 1.95 / len(NUMBERS) ** 0.5  # Kolmogorov-Smirnov, one chance in a thousand


def test_draws_of_neighbours_have_nothing_in_common() -> None:
    draws = [
        *uniforms(0, 1, NUMBERS, 3),
        *uniforms(0, 1, NUMBERS + 1, 1),  # the same as the first, moved by one
        *uniforms(0, 2, NUMBERS, 1),
        *uniforms(1, 1, NUMBERS, 1),
    ]
    correlation = np.corrcoef(np.stack(draws)) - np.eye(len(draws))
    assert np.abs(correlation).max() < 4.5 / len(NUMBERS) ** 0.5
    assert len(np.unique(np.concatenate(draws))) == (len(draws) - 1) * len(NUMBERS) + 1
