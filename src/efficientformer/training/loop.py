"""The one training loop: networks and supernets, one process or many. It resumes bit for bit.

Nothing in it remembers anything but the learner and the step: batches, mixing and noise of a step follow from
the seed and the step alone, so a checkpoint is the learner and a number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from efficientformer.data.batches import RawBatch, normalise_planes
from efficientformer.data.mixing import Mixing
from efficientformer.data.order import Order
from efficientformer.errors import InputError
from efficientformer.progress import Progress
from efficientformer.training.checkpoint import Keeper
from efficientformer.training.distributed import World
from efficientformer.training.learner import Learner, Part
from efficientformer.training.logs import Log
from efficientformer.training.optimizer import schedule_of
from efficientformer.training.recipe import Recipe
from efficientformer.training.stopping import stop_requests

CHECKPOINT_S = 20.0
SKIPPED = 20  # looks in a row, in fp16
LOOK_EVERY = 20  # steps; looking at the loss makes an accelerator wait
Prepare = Callable[[int, float], None]
"""Told (step, share of the training that is done) before each forward pass: a supernet draws its noise."""


AfterEpoch = Callable[[int, Learner, Callable[[], int]], None]
"""Told (epochs done, learner, whether to stop) when the state is saved; asked to stop, it should end soon."""


class Batches(Protocol):
    """Where a training's images come from: held on the device, or streamed."""

    @property
    def order(self) -> Order:
        """Which images each step takes."""
        ...

    def from_step(self, step: int) -> Iterator[RawBatch]:
        """This process's batches from a step on, without end."""
        ...


class Advisor(Protocol):
    """A teacher: (b, 3, H, W) as the student sees them → logits (b, classes)."""

    def __call__(self, x: Tensor) -> Tensor:
        """What it says of a batch."""
        ...


def train(
    model: nn.Module,
    data: Batches,
    recipe: Recipe,
    state: Path,
    *,
    classes: int,
    title: str,
    world: World | None = None,
    teacher: Advisor | None = None,
    identity: Mapping[str, Any] | None = None,
    prepare: Prepare | None = None,
    searched: tuple[nn.Parameter, ...] = (),
    after_epoch: AfterEpoch | None = None,
    checkpoint_s: float | None = None,
    log: Log | None = None,
    progress: Progress | None = None,
) -> Learner:
    """Train a model in place, from its last checkpoint if there is one; evaluation mode at the end.

    Args:
        model: gives logits (b, classes), or in training a pair of them.
        data: the training images.
        recipe: how.
        state: the checkpoint's path; it also marks the training as done.
        classes: how many there are.
        title: for the progress lines and the checkpoint.
        world: the processes that train together; each calls this.
        teacher: what to distil from, if the recipe does.
        identity: what else tells this training from others: a checkpoint of another is refused.
        prepare: called before each forward pass.
        searched: architecture parameters; they learn without weight decay and clipping.
        after_epoch: told by all processes; after a resume again, if that is where the training stopped.
        checkpoint_s: seconds between two checkpoints; `CHECKPOINT_S` by default.
        log: what is told of steps and epochs in files.
        progress: told how far it is.

    Returns:
        the learner, with the moving average if the recipe has one.

    Raises:
        InputError: if the loss is no number any more, or the checkpoint is of another training.
        Stopped: on Ctrl-C or SIGTERM, once the step is over and the state is saved.
    """
    world, log, progress = world or World(), log or Log(None), progress or Progress(None)
    per_epoch = data.order.steps_per_epoch
    total = recipe.epochs * per_epoch
    with _own_randomness(world.device), stop_requests() as came:
        learner = Learner(model, recipe, searched, world)
        about = {"title": title, "recipe": recipe.to_json(), "images": data.order.length, **(identity or {})}
        keeper = Keeper(state, learner, about, CHECKPOINT_S if checkpoint_s is None else checkpoint_s)
        schedule = schedule_of(learner.optimizer, recipe, per_epoch)
        mixing = Mixing(recipe.augmentation, recipe.label_smoothing, classes, recipe.seed)
        step = keeper.restore()
        teller = _Teller(title, learner, total, log, progress, step)

        def judge(step: int) -> None:
            if after_epoch:
                after_epoch(step // per_epoch, learner, came)
            model.train()

        if 0 < step < total and step % per_epoch == 0:
            judge(step)  # its end may not have been told of any more
        model.train()
        for batch in itertools.islice(data.from_step(step), total - step) if step < total else ():
            schedule.step_update(step)
            torch.manual_seed(_seed(recipe.seed, step, world.rank))
            if prepare:
                learner.before_part = partial(prepare, step, step / total)
            x, targets = mixing(normalise_planes(batch.pixels), batch.labels, step, world.rank)
            with learner.autocast():
                advice = teacher(x) if teacher else None
            loss = learner.step(Part(x, targets, advice), step)
            step += 1
            teller.look(step, loss, len(batch.labels))
            ends = step % per_epoch == 0
            keeper.after(step, came(), save=ends)
            if ends:
                judge(step)
                keeper.after(step, came())  # it may have been asked to stop meanwhile
    model.eval()
    return learner


class _Teller:
    """Looks at the loss, on an accelerator now and then: it is told, logged, and must be a number."""

    def __init__(
        self, title: str, learner: Learner, total: int, log: Log, progress: Progress, step: int
    ) -> None:
        self.title, self.learner, self.total = title, learner, total
        self.log, self.progress = log, progress
        self._unseen = 0  # images since the last look
        self._wrong = 0  # looks in a row at which the loss was no number
        log.resume(step)
        if 0 < step < total:
            progress.line(f"   {title}: going on after step {step} of {total}")

    def look(self, step: int, loss: Tensor, images: int) -> None:
        """The loss after so many steps.

        Raises:
            InputError: if it is no number. In fp16 it may be none, now and then: the loss's scale follows.
        """
        self._unseen += images
        if loss.device.type != "cpu" and step % LOOK_EVERY and step < self.total:
            return
        value, recipe = loss.item(), self.learner.recipe
        self._wrong = 0 if math.isfinite(value) else self._wrong + 1
        if self._wrong > (SKIPPED if self.learner.scaler.is_enabled() else 0):
            advice = f"lower --learning-rate {recipe.learning_rate:g}"
            raise InputError(f"{self.title}: the loss is {value} at step {step - 1}; {advice}")
        if self._wrong:
            return
        rate = self.learner.optimizer.param_groups[0]["lr"]
        images = self._unseen * self.learner.world.size
        self.log.step(step, loss=value, learning_rate=rate, images=images)
        self.progress.update(step, self.total, f"{self.title} · loss {value:.3f}")
        self._unseen = 0


def _own_randomness(device: torch.device) -> AbstractContextManager[None]:
    """The steps seed torch's generators; when they are over, these go on as if never touched."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _seed(seed: int, step: int, rank: int) -> int:
    """Of torch's generator in one step of one process: dropped paths follow from it."""
    return ((seed * 1_000_003 + step) * 1_009 + rank) % 2**63
