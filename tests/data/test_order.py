"""The order of a training: each image once an epoch, whoever asks and however often."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.data.order import WINDOW, Order

lengths = st.integers(1, 60)
seeds = st.integers(0, 9)


@pytest.mark.parametrize(
    ("length", "batch", "steps"), [(10, 4, 2), (8, 4, 2), (3, 4, 1), (4, 4, 1), (9469, 64, 147)]
)
def test_an_epoch_has_whole_batches(length: int, batch: int, steps: int) -> None:
    assert Order(length, batch).steps_per_epoch == steps


@given(lengths, st.integers(0, 3), seeds)
def test_each_image_comes_once_an_epoch(length: int, epoch: int, seed: int) -> None:
    assert sorted(Order(length, 4, seed=seed).epoch(epoch)) == list(range(length))


@given(st.integers(4, 60), st.integers(0, 40), st.integers(1, 4), seeds)
def test_processes_share_a_step(length: int, step: int, size: int, seed: int) -> None:
    order = Order(length, 4, seed=seed)
    whole, parts = order.draws(step), [order.draws(step, rank, size) for rank in range(size)]
    merged = sorted(
        (int(n), int(i)) for part in parts for n, i in zip(part.numbers, part.indices, strict=True)
    )
    assert merged == sorted(zip(whole.numbers.tolist(), whole.indices.tolist(), strict=True))


@given(lengths, st.lists(st.integers(0, 30), min_size=1), seeds)
def test_a_step_is_the_same_whenever_it_is_asked_for(length: int, steps: list[int], seed: int) -> None:
    order = Order(length, 4, seed=seed)
    for step in steps:
        alone = Order(length, 4, seed=seed).draws(step)
        assert np.array_equal(order.draws(step).indices, alone.indices)
        assert np.array_equal(order.draws(step).numbers, alone.numbers)


@given(lengths, seeds)
def test_no_number_comes_twice(length: int, seed: int) -> None:
    order = Order(length, 4, seed=seed)
    numbers = np.concatenate([order.draws(step).numbers for step in range(12)])
    assert len(set(numbers.tolist())) == len(numbers)


def test_epochs_and_seeds_differ() -> None:
    orders = [Order(100, 4, seed=seed).epoch(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(2, 60), st.integers(2, 4), seeds)
def test_repeats_follow_each_other_and_keep_the_epochs_length(length: int, repeats: int, seed: int) -> None:
    order = Order(length, 4, repeats, seed).epoch(0)
    assert len(order) == length
    groups = [order[start : start + repeats] for start in range(0, length, repeats)]
    assert all(len(set(group.tolist())) == 1 for group in groups)
    assert len({int(group[0]) for group in groups}) == len(groups)


blocks = st.lists(st.integers(1, 5), min_size=1, max_size=3 * WINDOW)


@given(blocks, seeds)
def test_images_are_mixed_within_a_window_of_blocks(sizes: list[int], seed: int) -> None:
    ends = np.cumsum(sizes)
    ranges = [range(end - size, end) for end, size in zip(ends.tolist(), sizes, strict=True)]
    order = Order(int(ends[-1]), 4, seed=seed, blocks=ranges).epoch(0)
    assert sorted(order.tolist()) == list(range(int(ends[-1])))
    block_of = {index: place for place, one in enumerate(ranges) for index in one}
    seen, open_blocks = set[int](), set[int]()
    left = {place: len(one) for place, one in enumerate(ranges)}
    for index in order.tolist():
        place = block_of[index]
        assert place not in seen  # a block that was gone through is not opened again
        open_blocks.add(place)
        assert len(open_blocks) <= WINDOW
        left[place] -= 1
        if not left[place]:
            seen.add(place)
            open_blocks.discard(place)
