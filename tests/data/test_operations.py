from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efficientformer.data import operations
from efficientformer.data.augmentation import Interpolation


def smooth(count: int, side: int) -> np.ndarray:
    """Photographs of a kind: uint8 (count, side, side, 3) without hard edges."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    large = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse]
    return np.stack([np.asarray(one) for one in large])


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1), ("bicubic", 4)])
@pytest.mark.parametrize(
    ("left", "upper", "width", "height", "side"),
    [(0, 0, 40, 40, 40), (3, 5, 20, 20, 40), (0.0, 20.0, 25.5, 12.25, 40), (7.5, 0, 30, 40, 64)],
)
def test_windows_are_crops(
    left: float, upper: float, width: float, height: float, side: int, interpolation: Interpolation, most: int
) -> None:
    """Against PIL's enlarging of boxes; its bicubic kernel is another one (a = -0.5)."""
    pixels = smooth(2, 40)
    box = (left, upper, left + width, upper + height)
    method = Image.Resampling[interpolation.upper()]
    expected = [np.asarray(Image.fromarray(one).resize((side, side), method, box)) for one in pixels]
    middle = [(2 * left + width) / 40 - 1, (2 * upper + height) / 40 - 1]
    theta = torch.tensor([[[width / 40, 0, middle[0]], [0, height / 40, middle[1]]]]).expand(2, 2, 3)
    seen, _ = operations.resample(planes(pixels), theta, side, interpolation)
    apart = (seen - planes(np.stack(expected))).abs()
    assert apart.max() <= most + 1e-3
    assert apart.mean() < most / 4 + 0.1


def test_a_mirrored_window_mirrors() -> None:
    x = planes(smooth(2, 12))
    theta = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]).expand(2, 2, 3)
    assert torch.equal(operations.resample(x, theta, 12, "bilinear")[0], x.flip(3))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_results_are_bytes_whatever_the_kernel_overshoots(interpolation: Interpolation) -> None:
    x = (torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float() * 255
    theta = torch.tensor([[[0.3, 0.1, 0.2], [-0.1, 0.4, 0.5]]]).expand(4, 2, 3)
    seen, _ = operations.resample(x, theta, 16, interpolation)
    assert torch.equal(seen.byte().float(), seen)


def test_beyond_the_edges_is_the_fill() -> None:
    x = torch.full((1, 3, 8, 8), 200.0)
    fill = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    moved = operations.warp(x, torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]]), fill, "bilinear")  # by two pixels
    assert (moved[..., :6] == 200).all()
    assert torch.equal(moved[0, :, :, 6:], fill.expand(3, 8, 2))


@given(st.integers(1, 4), st.integers(0, 255), st.floats(0.1, 1.9))
def test_plain_and_tiny_images(side: int, grey: int, factor: float) -> None:
    """What cannot be stretched, flattened or smoothed stays as it is."""
    x = torch.full((2, 3, side, side), float(grey))
    by = torch.full((2, 1, 1, 1), factor)
    for result in (
        operations.autocontrast(x),
        operations.equalize(x),
        operations.contrast(x, by),
        operations.color(x, by),
        operations.sharpness(x, by),
    ):
        assert torch.equal(result, x)


def test_tables_are_looked_up_by_image_and_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = torch.randint(0, 256, (4, 3, 256), generator=generator).float()
    x = torch.randint(0, 256, (4, 3, 5, 5), generator=generator)
    expected = tables.gather(2, x.flatten(2)).view(x.shape)
    assert torch.equal(operations.look_up(x.float(), tables), expected)
