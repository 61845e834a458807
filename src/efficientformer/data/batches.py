"""Batches as networks take them: normalised, and cropped at the centre to be evaluated on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from efficientformer.data.images import Images

CROP_SHARE = 0.875  # evaluation sees the central 7/8 of an image, ImageNet's habit


@dataclass(frozen=True)
class RawBatch:
    """Augmented images that are not yet normalised.

    Attributes:
        pixels: (b, 3, side, side), values 0 to 255, of any type.
        labels: int64 (b,), on the same device.
        numbers: int64 (b,), on the CPU: of the draws in training (`order.Draws`), else the images' indices.
        bad: files that were left out, each with the reason; the batch is smaller by them.
    """

    pixels: Tensor
    labels: Tensor
    numbers: Tensor
    bad: tuple[str, ...] = ()

    def pin_memory(self) -> RawBatch:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory())


def cached_side(input_side: int) -> int:
    """The side at which images are kept for networks of an input size."""
    return round(input_side / CROP_SHARE)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (b, h, w, 3) → float32 (b, 3, h, w) in channels-last memory, by ImageNet's mean and deviation."""
    batch, height, width, _ = pixels.shape
    x = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True).view(
        batch, height, width * 3
    )
    mean, deviation = _statistics(width, pixels.device)
    return x.div_(255).sub_(mean).div_(deviation).view(batch, height, width, 3).permute(0, 3, 1, 2)


def normalise_planes(pixels: Tensor) -> Tensor:
    """The same for (b, 3, h, w), values 0 to 255 of any type; the result shares no memory with it."""
    return normalise(pixels.permute(0, 2, 3, 1))


@functools.lru_cache
def _statistics(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation for a row of pixels, (width * 3,): four times as fast as for one."""
    mean, deviation = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
    return mean.repeat(width).to(device), deviation.repeat(width).to(device)


def evaluation_batches(images: Images, side: int, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, centre-cropped: (b, 3, side, side) and labels (b,)."""
    margin = (images.pixels.shape[1] - side) // 2
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = images.pixels[part, margin : margin + side, margin : margin + side]
        x = normalise(pixels).contiguous(memory_format=torch.channels_last)
        yield x, images.labels[part]
