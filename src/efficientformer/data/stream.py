"""Batches that worker processes read and augment while the network learns.

What is random about a picture follows from the seed and the number of its draw, so that a batch is the same
bytes whichever process makes it, with any number of workers, and after a restart in the middle of an epoch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from torch import Tensor
from torch.utils.data import Dataset

from efficientformer.data.augmentation import Augmentation
from efficientformer.data.batches import RawBatch
from efficientformer.data.decode import read_from, without_warnings
from efficientformer.data.order import Draws, Order
from efficientformer.data.sources.base import Source
from efficientformer.data.workers import WorkerBatches

Transform = Callable[[Image.Image], Tensor]
_AUGMENTING = 2  # tells these random numbers from the order's (0) and those of batches from memory (1)
_NARROWEST = 3 / 4  # of a random crop, relative to the square of its area: timm's default


class Stream:
    """Training batches, from any step on, without end.

    Args:
        source: the pictures.
        order: which of them a step takes.
        augmentation: what is done to each; erasing and mixing are not done here but on the device.
        side: pixels of the batches' pictures.
        seed: of what is random about augmentation.
        rank: of this process; it gets its own share of each step.
        size: how many processes there are.
        workers: processes that read; 0 reads in this one.
        device: where batches are used; for a GPU they come in page-locked memory. They are not moved there.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        augmentation: Augmentation,
        side: int,
        seed: int = 0,
        rank: int = 0,
        size: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        transform, least = training_transform(augmentation, side), least_side(augmentation, side)
        reader = _Reader(source, transform, least, seed, empty=(0, 3, side, side))
        self._steps = _Steps(order, rank, size)
        self._batches = WorkerBatches(reader, self._steps, workers, torch.device(device), keep=True)

    def from_step(self, step: int) -> Iterator[RawBatch]:
        """The batches of a step, counted from the start of the training, and all after it.

        Iterators given earlier end. The first one starts the workers, which are kept for those after it.
        """
        self._steps.first = step
        return iter(self._batches)

    def close(self) -> None:
        """End the workers."""
        self._batches.close()


def evaluation_stream(
    source: Source,
    transform: Transform,
    rank: int = 0,
    size: int = 1,
    workers: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Iterator[RawBatch]:
    """All pictures in order, each once over all processes; each process gets one run of them.

    Args:
        source: the pictures.
        transform: from an RGB picture to a tensor, all of one shape; with workers it must be picklable.
        rank: of this process.
        size: how many processes there are.
        workers: processes that read; 0 reads in this one.
        batch_size: pictures a batch; the last is shorter.
        device: where batches are used; for a GPU they come in page-locked memory.
    """
    start, stop = (len(source) * place // size for place in (rank, rank + 1))
    parts = (np.arange(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size))
    batches = [Draws(part, part) for part in parts]
    return iter(WorkerBatches(_Reader(source, transform), batches, workers, torch.device(device), keep=False))


def training_transform(augmentation: Augmentation, side: int) -> Transform:
    """From an RGB picture to uint8 (3, side, side): timm's random crop, flip and RandAugment."""
    transform = create_transform(
        side,
        is_training=True,
        use_prefetcher=True,  # uint8; normalising and erasing are the device's
        scale=(augmentation.min_area, 1.0),
        hflip=0.5 if augmentation.flip else 0.0,
        color_jitter=None,  # ty: ignore[invalid-argument-type] - timm's type forgets it
        auto_augment=augmentation.rand_augment or None,
        interpolation=augmentation.interpolation,
    )
    for step in transform.transforms:
        for operation in step.ops if isinstance(step, RandAugment) else ():
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def _posterize(picture: Image.Image, bits: int, **_: object) -> Image.Image:
    """At least one bit stays: timm asks for none at some magnitudes, which Pillow refuses."""
    return ImageOps.posterize(picture, max(1, bits))


def least_side(augmentation: Augmentation, side: int) -> int:
    """Pixels of a picture's short side such that no crop is narrower than `side`: a crop keeps at least
    `min_area` of the area, and its narrow side is at least √(3/4 of its area).
    """
    return math.ceil(side / math.sqrt(augmentation.min_area * _NARROWEST)) if augmentation.min_area else 0


@dataclass
class _Steps:
    """A process's draws from a step on; each iteration begins at `first` as it then is."""

    order: Order
    rank: int
    size: int
    first: int = 0

    def __iter__(self) -> Iterator[Draws]:
        step = self.first
        while True:
            yield self.order.draws(step, self.rank, self.size)
            step += 1


@dataclass(frozen=True)
class _Reader(Dataset[RawBatch]):
    """Makes a batch of what is drawn; it goes to the workers."""

    source: Source
    transform: Transform
    least_side: int = 0
    seed: int | None = None
    empty: tuple[int, ...] = (0,)

    def __getitem__(self, index: Draws) -> RawBatch:
        pixels: list[Tensor] = []
        kept, bad = [], []
        drawn = zip(index.indices.tolist(), index.numbers.tolist(), strict=True)
        with without_warnings(), _randomness_put_back():
            for place, (one, number) in enumerate(drawn):
                picture = read_from(self.source, one, self.least_side)
                if isinstance(picture, str):
                    bad.append(f"{self.source.name(one)}: {picture}")
                    continue
                if self.seed is not None:
                    _sow(self.seed, number)
                pixels.append(self.transform(picture))
                kept.append(place)
        labels = [self.source.labels[one] for one in index.indices[kept].tolist()]
        numbers = torch.from_numpy(index.numbers[kept].astype(np.int64))
        batch = torch.stack(pixels) if pixels else torch.empty(self.empty, dtype=torch.uint8)
        return RawBatch(batch, torch.tensor(labels, dtype=torch.int64), numbers, tuple(bad))


@contextmanager
def _randomness_put_back() -> Generator[None]:
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def _sow(seed: int, number: int) -> None:
    """Set the generators that augmentation draws from: Python's, numpy's and torch's."""
    words = np.random.SeedSequence((seed, _AUGMENTING, number)).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words.view(np.uint64)[0]))
