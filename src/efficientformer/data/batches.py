"""Batches: normalised, cropped, flipped. All randomness comes from (seed, step): any step can be redone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from efficientformer.data.images import Images

CROP_SHARE = 0.875  # evaluation sees the central 7/8 of an image, ImageNet's habit


@dataclass(frozen=True)
class Augmentation:
    """What training does to an image.

    Attributes:
        min_area: the smallest share of the image's area that a random crop keeps.
        flip: left-right flips, one image in two.
    """

    min_area: float = 0.35
    flip: bool = True


def cached_side(input_side: int) -> int:
    """The side at which images are kept for networks of an input size."""
    return round(input_side / CROP_SHARE)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (b, h, w, 3) → float32 (b, 3, h, w) in channels-last memory, by ImageNet's mean and deviation."""
    x = pixels.permute(0, 3, 1, 2).float().div_(255)
    mean, std = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
    return x.sub_(mean[:, None, None]).div_(std[:, None, None])


def steps_per_epoch(images: Images, batch_size: int) -> int:
    """Whole batches in the images; at least one."""
    return max(1, len(images) // batch_size)


def training_batch(
    images: Images, step: int, batch_size: int, side: int, augmentation: Augmentation, seed: int
) -> tuple[Tensor, Tensor]:
    """The batch of a step counted from the start of training: (b, 3, side, side) and labels (b,)."""
    steps = steps_per_epoch(images, batch_size)
    epoch, place = divmod(step, steps)
    order = np.random.default_rng((seed, 0, epoch)).permutation(len(images))
    chosen = torch.from_numpy(np.sort(order[place * batch_size : (place + 1) * batch_size]))
    random = np.random.default_rng((seed, 1, step))
    x = random_crop(normalise(images.pixels[chosen]), side, augmentation, random)
    return x, images.labels[chosen]


def random_crop(x: Tensor, side: int, augmentation: Augmentation, random: np.random.Generator) -> Tensor:
    """A random resized crop of each image, all in one resampling: (b, 3, h, w) → (b, 3, side, side)."""
    count = len(x)
    area = random.uniform(augmentation.min_area, 1.0, count)
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), count))
    across = np.clip(np.sqrt(area * aspect), area, 1.0)  # neither side may leave the image
    scale = np.stack([across, area / across])
    centre = random.uniform(-1, 1, (2, count)) * (1 - scale)
    mirror = np.where(random.random(count) < 0.5, -1.0, 1.0) if augmentation.flip else np.ones(count)
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = scale[0] * mirror, scale[1]
    theta[:, :, 2] = centre.T
    grid = F.affine_grid(torch.from_numpy(theta), [count, x.shape[1], side, side], align_corners=False)
    cropped = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)


def evaluation_batches(images: Images, side: int, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, centre-cropped: (b, 3, side, side) and labels (b,)."""
    margin = (images.pixels.shape[1] - side) // 2
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = images.pixels[part, margin : margin + side, margin : margin + side]
        x = normalise(pixels).contiguous(memory_format=torch.channels_last)
        yield x, images.labels[part]
