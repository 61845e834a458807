from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from efficientformer.data.batches import (
    Augmentation,
    cached_side,
    evaluation_batches,
    normalise,
    random_crop,
    steps_per_epoch,
    training_batch,
)
from efficientformer.data.images import Images

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's, as everyone's
BATCH, SIDE = 4, 8


def numbered(count: int, side: int = 10) -> Images:
    """Image i is of the grey i and the class i."""
    labels = torch.arange(count)
    pixels = labels.to(torch.uint8)[:, None, None, None].expand(count, side, side, 3)
    return Images(pixels.contiguous(), labels, ())


def noise(count: int, side: int) -> Images:
    return Images(torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8), torch.arange(count), ())


def reference(pixels: np.ndarray) -> np.ndarray:
    """(b, h, w, 3) bytes → normalised (b, 3, h, w)."""
    return ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def batch(images: Images, step: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return training_batch(images, step, BATCH, SIDE, Augmentation(), seed)


@pytest.mark.parametrize(("side", "expected"), [(224, 256), (32, 37), (64, 73), (96, 110), (192, 219)])
def test_images_are_kept_larger_than_they_are_used(side: int, expected: int) -> None:
    assert cached_side(side) == expected


def test_normalise() -> None:
    pixels = noise(3, 5).pixels
    before = pixels.clone()
    x = normalise(pixels)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(x.numpy(), reference(pixels.numpy()), atol=1e-5)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(12, 4, 3), (13, 4, 3), (15, 4, 3), (4, 4, 1), (3, 4, 1), (1, 64, 1)]
)
def test_steps_per_epoch(count: int, size: int, expected: int) -> None:
    assert steps_per_epoch(numbered(count), size) == expected


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    images = noise(20, 10)
    (x, labels), again = batch(images, 7, seed=3), batch(images, 7, seed=3)
    assert torch.equal(x, again[0])
    assert torch.equal(labels, again[1])
    for other in (batch(images, 8, seed=3), batch(images, 7, seed=4)):
        assert not torch.equal(x, other[0])
        assert not torch.equal(labels, other[1])


def test_batches_do_not_touch_the_global_generators() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    batch(numbered(20), 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@given(st.integers(1, 30), st.integers(0, 3), st.integers(0, 9))
def test_every_image_comes_once_an_epoch(count: int, epoch: int, seed: int) -> None:
    images = numbered(count)
    steps = steps_per_epoch(images, BATCH)
    seen = torch.cat([batch(images, epoch * steps + step, seed)[1] for step in range(steps)])
    assert len(set(seen.tolist())) == len(seen) == min(count, steps * BATCH)
    if count % BATCH == 0:
        assert sorted(seen.tolist()) == list(range(count))


def test_epochs_have_different_orders() -> None:
    images = numbered(20)
    orders = {tuple(batch(images, epoch * 5)[1].tolist()) for epoch in range(4)}
    assert len(orders) == 4


def test_labels_belong_to_their_images() -> None:
    x, labels = batch(numbered(40), 3)
    grey = (x[:, 0, 4, 4] * STD[0] + MEAN[0]) * 255
    assert torch.equal(grey.round().long(), labels)


def test_training_batches_are_channels_last_of_the_asked_side() -> None:
    x, labels = batch(noise(20, 10), 0)
    assert x.shape == (BATCH, 3, SIDE, SIDE)
    assert labels.shape == (BATCH,)
    assert x.is_contiguous(memory_format=torch.channels_last)


# Crops, read off from images whose pixels are their own coordinates, from -1 to 1


def crops(augmentation: Augmentation, count: int = 200, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Width, height (shares of the image; a flipped width is negative) and centre of random crops."""
    out, middle = 33, 16
    coordinate = (2 * torch.arange(40.0) + 1) / 40 - 1
    ramps = torch.stack([coordinate.expand(40, 40), coordinate[:, None].expand(40, 40)])
    x = random_crop(ramps.expand(count, 2, 40, 40), out, augmentation, np.random.default_rng(seed))
    width = (x[:, 0, middle, middle + 1] - x[:, 0, middle, middle - 1]) * out / 4
    height = (x[:, 1, middle + 1, middle] - x[:, 1, middle - 1, middle]) * out / 4
    return width, height, x[:, :, middle, middle]


@given(st.floats(0.1, 0.75), st.booleans(), st.integers(0, 100))
def test_crops_lie_within_the_image_and_keep_their_share(min_area: float, flip: bool, seed: int) -> None:
    width, height, centre = crops(Augmentation(min_area, flip), seed=seed)
    width = width.abs()
    slack = 1e-4
    assert (width * height >= min_area - slack).all()
    assert (width * height <= 1 + slack).all()
    assert (width / height <= 4 / 3 + slack).all()
    assert (height / width <= 4 / 3 + slack).all()
    assert (centre[:, 0].abs() + width <= 1 + slack).all()
    assert (centre[:, 1].abs() + height <= 1 + slack).all()


@pytest.mark.parametrize("min_area", [0.85, 1.0])
def test_crops_keep_a_large_share_too(min_area: float) -> None:
    width, height, _ = crops(Augmentation(min_area, flip=False))
    assert (width * height >= min_area - 1e-4).all()


def test_crops_differ_from_image_to_image() -> None:
    width, height, centre = crops(Augmentation())
    assert width.abs().std() > 0.05
    assert height.std() > 0.05
    assert (centre.std(0) > 0.05).all()


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 0.35, 0.65), (False, 0.0, 0.0)])
def test_one_image_in_two_is_flipped_only_if_asked(flip: bool, least: float, most: float) -> None:
    width, _, _ = crops(Augmentation(flip=flip))
    assert least <= (width < 0).double().mean() <= most


# Evaluation


@pytest.mark.parametrize(("side", "crop"), [(10, 8), (37, 32), (11, 8), (8, 8), (10, 7)])
def test_evaluation_sees_the_centre(side: int, crop: int) -> None:
    images = noise(5, side)
    margin = (side - crop) // 2
    box = (margin, margin, margin + crop, margin + crop)
    cropped = [np.asarray(Image.fromarray(pixels).crop(box)) for pixels in images.pixels.numpy()]
    ((x, labels),) = evaluation_batches(images, crop)
    assert np.allclose(x.numpy(), reference(np.stack(cropped)), atol=1e-5)
    assert torch.equal(labels, images.labels)
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (5, 1, [1] * 5)]
)
def test_evaluation_takes_every_image_in_order(count: int, size: int, expected: list[int]) -> None:
    parts = [labels for _, labels in evaluation_batches(numbered(count), SIDE, size)]
    assert [len(part) for part in parts] == expected
    assert torch.cat(parts).tolist() == list(range(count))
