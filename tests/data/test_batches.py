from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from efficientformer.data.batches import (
    cached_side,
    evaluation_batches,
    normalise,
    normalise_planes,
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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalise_planes(dtype: torch.dtype, layout: torch.memory_format) -> None:
    pixels = noise(3, 5).pixels
    planes = pixels.permute(0, 3, 1, 2).to(dtype).contiguous(memory_format=layout)
    before = planes.clone()
    x = normalise_planes(planes)
    assert torch.equal(x, normalise(pixels))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(planes, before)


def test_normalise_parts_of_images() -> None:
    pixels = noise(3, 9).pixels
    assert torch.equal(normalise(pixels[:, 2:7, 1:6]), normalise(pixels)[:, :, 2:7, 1:6])


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
