"""Training batches out of images that lie on a device, augmented there.

The data set is brought to the device once; of a step, nothing but a few numbers for each image is.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientformer.data.augmentation import Augmentation
from efficientformer.data.batches import RawBatch
from efficientformer.data.images import Images
from efficientformer.data.operations import resample
from efficientformer.data.order import Order
from efficientformer.data.rand_augment import on_device, rand_augment
from efficientformer.data.uniforms import CROP, uniforms

SHARE = 0.25  # of the free memory that images may take; the rest is the network's
_AT_ONCE = 16  # images on a CPU: larger arrays would be new memory each time, which is slow to get
_AT_ONCE_ELSEWHERE = 256  # on accelerators: about 0.6 GB at 224 pixels


class Held:
    """Training batches from images in memory, a function of (seed, step, rank).

    What is done to an image follows from the seed and its number, so that the processes of a training make
    together the very batch that one alone would.

    Args:
        images: squares, larger than `side`.
        order: which images a step takes.
        augmentation: of which crops, flips and RandAugment are done here.
        side: pixels of the results.
        seed: of the augmentation.
        rank: of this process.
        size: how many processes there are.
        device: where images are kept and batches are made.

    Raises:
        InputError: if the augmentation's RandAugment is misspelt.
    """

    def __init__(
        self,
        images: Images,
        order: Order,
        augmentation: Augmentation,
        side: int,
        seed: int,
        rank: int = 0,
        size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.pixels, self.labels = images.pixels.to(self.device), images.labels.to(self.device)
        self.order, self.augmentation, self.side, self.seed = order, augmentation, side, seed
        self.rank, self.size = rank, size
        spec = augmentation.rand_augment
        self._operations = rand_augment(spec, augmentation.interpolation) if spec else None

    def from_step(self, step: int) -> Iterator[RawBatch]:
        """Batches of a step and all later ones; pixels are uint8 in channels-last memory."""
        return map(self.batch, itertools.count(step))

    def batch(self, step: int) -> RawBatch:
        """The batch of a step counted from the start of the training."""
        draws = self.order.draws(step, self.rank, self.size)
        total = len(draws.indices)
        pixels = torch.empty(total, self.side, self.side, 3, dtype=torch.uint8, device=self.device)
        count = _AT_ONCE if self.device.type == "cpu" else _AT_ONCE_ELSEWHERE
        for part in (slice(start, start + count) for start in range(0, total, count)):
            x = self._augmented(draws.indices[part], draws.numbers[part])
            torch.stack(x.byte().unbind(1), -1, out=pixels[part])
        labels = self.labels.index_select(0, on_device(draws.indices, self.device))
        return RawBatch(pixels.permute(0, 3, 1, 2), labels, torch.from_numpy(draws.numbers))

    def _augmented(self, indices: np.ndarray, numbers: np.ndarray) -> Tensor:
        kept = self.pixels.index_select(0, on_device(indices, self.device))
        x = kept.permute(0, 3, 1, 2).contiguous().float()
        theta = on_device(crops(self.augmentation, self.seed, numbers), self.device)
        x, _ = resample(x, theta, self.side, self.augmentation.interpolation)
        return self._operations(x, self.seed, numbers) if self._operations else x


def crops(augmentation: Augmentation, seed: int, numbers: np.ndarray) -> np.ndarray:
    """Random resized crops and flips as affine windows (`operations.resample`): float32 (n, 2, 3).

    Area and aspect (3/4 to 4/3) are drawn as for Inception (Szegedy et al., 2015); a side longer than the
    image's is cut to it, the area kept.
    """
    area, aspect, *centre, mirror = uniforms(seed, CROP, numbers, 5)
    area = augmentation.min_area + (1 - augmentation.min_area) * area
    aspect = np.exp(np.log(4 / 3) * (2 * aspect - 1))
    across = np.clip(np.sqrt(area * aspect), area, 1.0)
    theta = np.zeros((len(numbers), 2, 3), dtype=np.float32)
    for axis, scale in enumerate((across, area / across)):
        theta[:, axis, axis] = scale
        theta[:, axis, 2] = (2 * centre[axis] - 1) * (1 - scale)
    if augmentation.flip:
        theta[:, 0, 0] *= np.where(mirror < 0.5, -1, 1)
    return theta


def fits(images_bytes: int, device: torch.device | str) -> bool:
    """Whether images may be kept on a device: they take at most a quarter of its free memory.

    A CPU's is the machine's; an array mapped from disk counts, for it is read over and over.
    """
    return images_bytes <= SHARE * _free_bytes(torch.device(device))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    about = Path("/proc/meminfo")
    if about.exists():  # Linux tells what caches would give back
        lines = dict(line.split(":") for line in about.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
