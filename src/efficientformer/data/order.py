"""Which images a step takes: a function of (seed, step), so that any step can be redone, by any process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

WINDOW = 16  # blocks whose images are mixed: so many shards are open at once


@dataclass(frozen=True)
class Draws:
    """The images one process takes in a step.

    Attributes:
        indices: int64 (n,), into the source.
        numbers: int64 (n,), counting the images drawn since the training began, over all processes. What is
            random about an image's augmentation follows from the seed and its number alone.
    """

    indices: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Order:
    """The order of a training.

    Args:
        length: images in the source.
        batch_size: images a step, over all processes. Only whole batches: the rest of an epoch is left out.
        repeats: how often an image comes in an epoch, one after the other, so that the copies fall to several
            processes where there are (repeated augmentation); an epoch has then fewer different images.
        seed: of the shuffling.
        blocks: runs of images that lie together on disk (`Source.blocks`); empty if any image is read as fast
            after any other.
    """

    length: int
    batch_size: int
    repeats: int = 1
    seed: int = 0
    blocks: Sequence[range] = ()
    _kept: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; at least one."""
        return max(1, self.length // self.batch_size)

    def draws(self, step: int, rank: int = 0, size: int = 1) -> Draws:
        """What process `rank` of `size` takes in a step, counted from the start of the training."""
        epoch, place = divmod(step, self.steps_per_epoch)
        batch = self.epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        numbers = step * self.batch_size + np.arange(len(batch))
        return Draws(batch[rank::size], numbers[rank::size])

    def epoch(self, epoch: int) -> np.ndarray:
        """The images of an epoch in order: int64 (length,)."""
        if epoch not in self._kept:
            self._kept.clear()
            self._kept[epoch] = self._shuffled(np.random.default_rng((self.seed, 0, epoch)))
        return self._kept[epoch]

    def _shuffled(self, random: np.random.Generator) -> np.ndarray:
        order = self._by_blocks(random) if self.blocks else random.permutation(self.length)
        return np.repeat(order, self.repeats)[: self.length] if self.repeats > 1 else order

    def _by_blocks(self, random: np.random.Generator) -> np.ndarray:
        """Blocks in random order, the images of each window of them mixed."""
        blocks = [self.blocks[place] for place in random.permutation(len(self.blocks))]
        windows = (blocks[start : start + WINDOW] for start in range(0, len(blocks), WINDOW))
        images = (np.concatenate([np.asarray(block) for block in window]) for window in windows)
        return np.concatenate([random.permutation(some) for some in images])
