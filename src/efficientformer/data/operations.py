"""What RandAugment does to images, many at once: float32 (m, 3, side, side) of whole numbers from 0 to 255.

Results are whole numbers again, computed the way PIL does. Geometric operations round where PIL cuts off, and
bicubic ones have torch's kernel (a = -0.75; PIL's transforms: -1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientformer.data.augmentation import Interpolation

_GREY = (19595, 38470, 7471)  # PIL's weights of red, green and blue, of 65536


def resample(x: Tensor, theta: Tensor, side: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """Images seen through affine windows, and where each pixel was taken from.

    Args:
        x: (m, 3, h, w).
        theta: (m, 2, 3), from the result's coordinates to x's; both run from -1 to 1, edge to edge.
        side: pixels of the result.
        interpolation: beyond its edges an image goes on as its outermost pixels.

    Returns:
        (m, 3, side, side), rounded, and coordinates (m, side, side, 2).
    """
    ruler = (torch.arange(side, device=x.device) * 2 + 1) / side - 1
    right = theta[:, :, :1] * ruler + theta[:, :, 2:]  # (m, 2, side)
    down = theta[:, :, 1:2] * ruler
    grid = torch.empty(len(x), side, side, 2, device=x.device)
    for axis in range(2):  # ten times as fast as adding pairs
        torch.add(right[:, axis, None], down[:, axis, :, None], out=grid[..., axis])
    seen = F.grid_sample(x, grid, interpolation, "border", align_corners=False)
    return seen.round_().clamp_(0, 255), grid


def warp(x: Tensor, theta: Tensor, fill: Tensor, interpolation: Interpolation) -> Tensor:
    """Sheared, moved or turned images; beyond their edges lies the colour `fill` (3, 1, 1)."""
    seen, grid = resample(x, theta, x.shape[-1], interpolation)
    beyond = grid.abs().amax(-1) > 1
    return torch.where(beyond[:, None], fill, seen)


def look_up(x: Tensor, tables: Tensor) -> Tensor:
    """Each value replaced by its entry in a table (m, 3, 256), one for each image and channel."""
    return tables.flatten().index_select(0, _cells(x).flatten()).view(x.shape)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched to 0 to 255; one level above PIL where PIL's floating point falls short."""
    low, high = x.amin((2, 3)).long()[..., None], x.amax((2, 3)).long()[..., None]
    stretched = ((_levels(x) - low) * 255) // (high - low).clamp(min=1)
    return look_up(x, torch.where(high > low, stretched, _levels(x)).clamp(0, 255).float())


def equalize(x: Tensor) -> Tensor:
    """Each channel's histogram made flat."""
    counts = torch.zeros(len(x) * 3 * 256, dtype=torch.int64, device=x.device)
    cells = _cells(x).flatten().long()
    counts = counts.scatter_add_(0, cells, torch.ones_like(cells)).view(-1, 3, 256)
    of_brightest = counts.gather(2, x.amax((2, 3)).long()[..., None])
    step = (counts.sum(2, keepdim=True) - of_brightest) // 255
    darker = counts.cumsum(2) - counts
    flat = (step // 2 + darker) // step.clamp(min=1)
    return look_up(x, torch.where(step > 0, flat, _levels(x)).clamp(max=255).float())


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blended with (away from, above 1) its mean grey; factor (m, 1, 1, 1)."""
    pixels = x.shape[2] * x.shape[3]
    total = _grey(x).long().sum((1, 2, 3), keepdim=True)
    return _blend(((2 * total + pixels) // (2 * pixels)).float(), x, factor)


def color(x: Tensor, factor: Tensor) -> Tensor:
    """Blended with (away from, above 1) its grey image; factor (m, 1, 1, 1)."""
    return _blend(_grey(x), x, factor)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Blended with (away from, above 1) itself smoothed, borders left alone; factor (m, 1, 1, 1)."""
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    squares = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = x.clone()
    inner = smooth[:, :, 1:-1, 1:-1]
    inner.mul_(4).add_(squares).div_(13).round_()
    return _blend(smooth, x, factor)


def _blend(start: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return (x - start).mul_(factor).add_(start).clamp_(0, 255).floor_()


def _grey(x: Tensor) -> Tensor:
    """Luminance (m, 1, h, w); all sums are below 2²⁴, so float32 is exact."""
    red, green, blue = (x[:, channel, None] * weight for channel, weight in enumerate(_GREY))
    return (red + green + blue + 32768).div_(65536).floor_()


def _cells(x: Tensor) -> Tensor:
    """Where in tables (m, 3, 256) each value's entry lies: int32, shaped like x."""
    first = torch.arange(0, len(x) * 3 * 256, 256, device=x.device, dtype=torch.int32)
    return x.int().add_(first.view(-1, 3, 1, 1))


def _levels(x: Tensor) -> Tensor:
    return torch.arange(256, device=x.device)
