from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.data import held
from efficientformer.data.augmentation import Augmentation
from efficientformer.data.held import Held, crops, fits
from efficientformer.data.images import Images
from efficientformer.data.order import Order
from efficientformer.errors import InputError
from tests.data.test_mixing import states

PAPER = Augmentation(0.08, interpolation="bicubic", rand_augment="rand-m9-mstd0.5-inc1")
SIDE, BATCH = 8, 6


def numbered(count: int, side: int = 10) -> Images:
    """Image i is of the grey i and the class i."""
    labels = torch.arange(count)
    pixels = labels.to(torch.uint8)[:, None, None, None].expand(count, side, side, 3)
    return Images(pixels.contiguous(), labels, ())


def noise(count: int, side: int = 10) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.arange(count), ())


def of(
    images: Images,
    augmentation: Augmentation = PAPER,
    seed: int = 0,
    rank: int = 0,
    size: int = 1,
    device: str = "cpu",
) -> Held:
    order = Order(len(images), BATCH, augmentation.repeats, seed)
    return Held(images, order, augmentation, SIDE, seed, rank, size, device)


def test_batches_are_bytes_in_channels_last_memory() -> None:
    batch = of(noise(20)).batch(0)
    assert batch.pixels.shape == (BATCH, 3, SIDE, SIDE)
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == torch.int64
    assert batch.numbers.tolist() == list(range(BATCH))
    assert batch.bad == ()


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    images = noise(20)
    first, again = of(images, seed=3).batch(7), of(images, seed=3).batch(7)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    for other in (of(images, seed=3).batch(8), of(images, seed=4).batch(7)):
        assert not torch.equal(other.pixels, first.pixels)


def test_batches_go_on_from_any_step() -> None:
    images = noise(20)
    from_first = list(islice(of(images).from_step(0), 8))
    for late, whole in zip(islice(of(images).from_step(5), 3), from_first[5:], strict=True):
        assert torch.equal(late.pixels, whole.pixels)
        assert np.array_equal(late.numbers, whole.numbers)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_processes_make_the_batch_that_one_would(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(40, 14)
    for step in range(4):
        monkeypatch.setattr(held, "_AT_ONCE", 16)
        whole = of(images).batch(step)
        monkeypatch.setattr(held, "_AT_ONCE", 2)
        for rank in range(size):
            part = of(images, rank=rank, size=size).batch(step)
            assert torch.equal(part.pixels, whole.pixels[rank::size])
            assert torch.equal(part.labels, whole.labels[rank::size])
            assert np.array_equal(part.numbers, whole.numbers[rank::size])


def test_a_process_without_images_has_an_empty_batch() -> None:
    batch = of(noise(1), rank=1, size=2).batch(0)
    assert batch.pixels.shape == (0, 3, SIDE, SIDE)
    assert len(batch.labels) == len(batch.numbers) == 0


def test_labels_belong_to_their_images() -> None:
    for batch in islice(of(numbered(40), Augmentation()).from_step(0), 9):
        grey = batch.labels.byte()[:, None, None, None].expand_as(batch.pixels)
        assert torch.equal(batch.pixels, grey)


def test_repeats_of_an_image_are_augmented_anew() -> None:
    batch = of(noise(20), Augmentation(repeats=3)).batch(0)
    assert len(set(batch.labels.tolist())) == 2
    assert len({image.numpy().tobytes() for image in batch.pixels}) == BATCH


def test_batches_do_not_touch_the_global_generators() -> None:
    before = states()
    of(noise(20)).batch(0)
    assert states() == before


def test_crops_stay_the_whole_image_where_nothing_is_asked() -> None:
    images = noise(BATCH, SIDE)
    batch = of(images, Augmentation(1.0, flip=False)).batch(0)
    assert torch.equal(batch.pixels.permute(0, 2, 3, 1), images.pixels[batch.labels])


def test_a_misspelt_augmentation_is_refused() -> None:
    with pytest.raises(InputError, match="rand-x9"):
        of(noise(6), Augmentation(rand_augment="rand-x9"))


# Crops


@given(st.floats(0.01, 1.0), st.booleans(), st.integers(0, 2**32))
def test_crops_lie_within_the_image_and_keep_their_share(least: float, flip: bool, seed: int) -> None:
    theta = crops(Augmentation(least, flip), seed, np.arange(200)).astype(np.float64)
    width, height, slack = np.abs(theta[:, 0, 0]), theta[:, 1, 1], 1e-5
    assert (width * height >= least - slack).all()
    assert (width + np.abs(theta[:, 0, 2]) <= 1 + slack).all()
    assert (height + np.abs(theta[:, 1, 2]) <= 1 + slack).all()
    assert (width / height <= 4 / 3 + slack).all()
    assert (height / width <= 4 / 3 + slack).all()
    assert not theta[:, [0, 1], [1, 0]].any()


def test_crops_are_distributed_as_said() -> None:
    count = 20_000
    theta = crops(Augmentation(0.08), 0, np.arange(count)).astype(np.float64)
    width, height = np.abs(theta[:, 0, 0]), theta[:, 1, 1]
    small = width * height < 0.7  # larger ones may have been cut to the image
    uniform = {
        "area": (width * height - 0.08) / 0.92,
        "aspect": np.log(width / height)[small] / (2 * np.log(4 / 3)) + 0.5,
        "across": (theta[small, 0, 2] / (1 - width[small]) + 1) / 2,
        "down": (theta[small, 1, 2] / (1 - height[small]) + 1) / 2,
    }
    for name, share in uniform.items():
        n = len(share)
        assert np.abs(np.sort(share) - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5, name
    assert 0.48 < (theta[:, 0, 0] < 0).mean() < 0.52


@given(st.integers(0, 2**32), st.lists(st.integers(0, 299), min_size=1, max_size=40))
def test_crops_are_the_same_however_images_are_dealt_out(seed: int, some: list[int]) -> None:
    numbers = np.arange(10**9, 10**9 + 300)
    assert np.array_equal(crops(PAPER, seed, numbers)[some], crops(PAPER, seed, numbers[some]))


def test_nothing_is_flipped_unasked() -> None:
    assert (crops(Augmentation(flip=False), 0, np.arange(500))[:, 0, 0] > 0).all()


# Memory


@pytest.mark.parametrize(("size", "expected"), [(0, True), (250, True), (251, False)])
def test_images_fit_in_a_quarter(size: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_free_bytes", lambda _device: 1000)
    assert fits(size, "cpu") is expected


def test_free_memory_of_this_machine() -> None:
    assert fits(2**20, "cpu")
    assert not fits(2**50, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_an_accelerator() -> None:
    """Kernels differ in the last bits: few values differ, by a grey level, or by more after equalizing."""
    images = noise(40, 14)
    here, there = of(images).batch(0), of(images, device="cuda")
    list(islice(there.from_step(1), 5))  # what is kept from the first time on
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = there.batch(0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (batch.pixels.cpu().int() - here.pixels.int()).abs().float().mean() < 1
    assert torch.equal(batch.labels.cpu(), here.labels)
    assert fits(2**20, "cuda")
