"""The images of a training: kept on the device where they fit, read as they are needed otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from efficientformer.data.bad_files import BadFiles
from efficientformer.data.batches import RawBatch, cached_side, evaluation_batches
from efficientformer.data.held import fits
from efficientformer.data.images import Images, decode, refuse_unreadable
from efficientformer.data.order import Order
from efficientformer.data.sources.base import Parts, Source
from efficientformer.data.stream import Stream, evaluation_stream
from efficientformer.errors import InputError
from efficientformer.evaluation.protocol import Protocol
from efficientformer.files import read_json, write_json
from efficientformer.progress import Progress
from efficientformer.training.batches import held_batches, order_of
from efficientformer.training.distributed import World
from efficientformer.training.loop import Batches
from efficientformer.training.recipe import Recipe

Keep = Literal["auto", "held", "stream"]


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from and is judged on.

    Attributes:
        parts: classes and sources.
        train: this process's batches.
        val: gives this process's share of the validation images, normalised, with their labels, once through.
        keep: `held` or `stream`.
        protocol: how validation images are prepared.
        unreadable: files left out so far; given those of other processes, it counts them too.
        close: ends the processes that read.
    """

    parts: Parts
    train: Batches
    val: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    keep: str
    protocol: Protocol
    unreadable: Callable[[tuple[str, ...]], tuple[str, ...]]
    close: Callable[[], None] = lambda: None


def open_data(
    parts: Parts,
    recipe: Recipe,
    work: Path,
    world: World,
    *,
    keep: Keep = "auto",
    workers: int = 2,
    max_unreadable: float,
    progress: Progress,
) -> TrainingData:
    """Make the images of a data set ready for a training.

    Args:
        parts: where they are.
        recipe: of its input size, batch size, augmentation and seed.
        work: where decoded images and indices are kept until the training is done.
        world: the processes; the first decodes, the others wait.
        keep: `held` on the device, `stream` from disk, or by what fits.
        workers: processes that read and augment for this one, when streaming.
        max_unreadable: greatest share of unreadable files.
        progress: told how far it is.

    Raises:
        InputError: if too many images are unreadable.
    """
    if _kept(parts, recipe, work / "keep.json", world, keep) == "held":
        return _held(parts, recipe, work, world, max_unreadable, progress)
    return _streamed(parts, recipe, world, max_unreadable, progress, workers)


def _kept(parts: Parts, recipe: Recipe, path: Path, world: World, keep: Keep) -> str:
    """Held or streamed; decided once, for the two augment differently, and a resumed training must not."""
    with world.main_first():
        if not path.exists():
            side = cached_side(recipe.input_size)
            size = (len(parts.train) + len(parts.val)) * side * side * 3
            found = keep if keep != "auto" else "held" if fits(size, world.device) else "stream"
            write_json(path, {"keep": found})
    return read_json(path)["keep"]


def _held(
    parts: Parts, recipe: Recipe, work: Path, world: World, max_unreadable: float, progress: Progress
) -> TrainingData:
    side = cached_side(recipe.input_size)

    def read(source: Source, name: str) -> Images:
        return decode(source, side, work / f"{name}-{side}.images", progress)

    with world.main_first():  # it decodes
        train, val = read(parts.train, "train"), read(parts.val, "val")
    refuse_unreadable((train, val), max_unreadable)
    if unreadable := (*train.unreadable, *val.unreadable):
        progress.line(f"   {len(unreadable)} unreadable files are left out; the first: {unreadable[0]}")
    batches = held_batches(train, recipe, world)
    mine = Images(val.pixels[world.rank :: world.size], val.labels[world.rank :: world.size], ())

    def judged() -> Iterator[tuple[Tensor, Tensor]]:
        for x, labels in evaluation_batches(mine, recipe.input_size):
            yield x.to(world.device), labels.to(world.device)

    protocol = Protocol("run", side, recipe.input_size, square=True)
    return TrainingData(
        parts, batches, judged, "held", protocol, lambda _: (*train.unreadable, *val.unreadable)
    )


@dataclass(frozen=True)
class _Streamed:
    """Batches of a stream, brought to the device, their bad files counted."""

    stream: Stream
    order: Order
    bad: BadFiles
    device: torch.device

    def from_step(self, step: int) -> Iterator[RawBatch]:
        """This process's batches from a step on, without end."""
        for batch in self.stream.from_step(step):
            self.bad.add(batch.bad)
            if not len(batch.labels):
                raise InputError(f"none of a step's images is readable; the first: {batch.bad[0]}")
            yield dataclasses.replace(
                batch,
                pixels=batch.pixels.to(self.device, non_blocking=True),
                labels=batch.labels.to(self.device, non_blocking=True),
            )


def _streamed(
    parts: Parts,
    recipe: Recipe,
    world: World,
    max_unreadable: float,
    progress: Progress,
    workers: int,
) -> TrainingData:
    protocol, order = Protocol.parse("paper", recipe.input_size), order_of(recipe, parts.train)
    bad = BadFiles(len(parts.train) + len(parts.val), max_unreadable, progress.line)
    stream = Stream(
        parts.train,
        order,
        recipe.augmentation,
        recipe.input_size,
        recipe.seed,
        world.rank,
        world.size,
        workers,
        world.device,
    )

    def judged() -> Iterator[tuple[Tensor, Tensor]]:
        ours = (world.rank, world.size)
        for batch in evaluation_stream(parts.val, protocol.prepare, *ours, workers, device=world.device):
            bad.add(batch.bad)
            if len(batch.labels):
                yield (
                    batch.pixels.to(world.device, memory_format=torch.channels_last),
                    batch.labels.to(world.device),
                )

    def counted(others: tuple[str, ...]) -> tuple[str, ...]:
        bad.add(others)
        return bad.names

    return TrainingData(
        parts,
        _Streamed(stream, order, bad, world.device),
        judged,
        "stream",
        protocol,
        counted,
        stream.close,
    )
