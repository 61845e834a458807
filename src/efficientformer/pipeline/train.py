"""`train`: one network learns by a recipe, in one process or many; what it reached is measured and kept.

efficientformer train efficientformer_l1 --data photos --recipe scratch --out runs/l1
torchrun --nproc-per-node 2 -m efficientformer.cli train efficientformer_l1 --data photos --out runs/l1
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import efficientformer
from efficientformer.data.bad_files import MAX_UNREADABLE
from efficientformer.data.rand_augment import rand_augment
from efficientformer.data.sources import open_parts
from efficientformer.data.sources.base import Parts
from efficientformer.errors import InputError
from efficientformer.evaluation.classifier import classifier
from efficientformer.evaluation.labels import outputs_of
from efficientformer.evaluation.score import Accuracy, Tally
from efficientformer.files import read_json, write_json
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.target import Target
from efficientformer.model.checkpoint import save_model
from efficientformer.model.network import EfficientFormer
from efficientformer.model.weights import save_tensors
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.student import Student, student
from efficientformer.pipeline.training_data import Keep, TrainingData, open_data
from efficientformer.progress import Progress
from efficientformer.training.distillation import Teacher
from efficientformer.training.distributed import World, joined
from efficientformer.training.learner import Learner
from efficientformer.training.logs import Log
from efficientformer.training.loop import CHECKPOINT_S
from efficientformer.training.loop import train as learn
from efficientformer.training.recipe import Recipe

FORMAT = "efficientformer.training/1"


@dataclass(frozen=True)
class TrainJob:
    """A training.

    Attributes:
        model: what `student` takes.
        data: the folder of images.
        recipe: how.
        pretrained: weights for a preset or a peer: a file, or `hub`.
        teacher: a classifier to distil from: timm/NAME, a run, a file of ours or an exported one.
        teacher_weights: of a teacher that is a preset or a peer: a file, or `hub`.
        keep: images on the device (`held`), from disk (`stream`), or by what fits (`auto`).
        workers: processes that read and augment, for each process that trains.
        device: `cpu`, `cuda` or `auto`.
        evaluate_every: epochs between two evaluations; the last is always evaluated.
        checkpoint_s: seconds between two checkpoints.
        logs: beside JSON lines.
        max_unreadable: greatest share of unreadable images.
    """

    model: str
    data: Path
    recipe: Recipe
    pretrained: str | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    keep: Keep = "auto"
    workers: int = 2
    device: str = "auto"
    evaluate_every: int = 1
    checkpoint_s: float = CHECKPOINT_S
    logs: tuple[str, ...] = ("tensorboard",)
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        for name, value, least in (
            ("workers", self.workers, 0),
            ("evaluate_every", self.evaluate_every, 1),
            ("checkpoint_every", self.checkpoint_s, 0),
        ):
            if not value >= least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        if not 0 <= self.max_unreadable <= 1:
            raise InputError(f"max_unreadable is a share between 0 and 1, not {self.max_unreadable:g}")
        if self.recipe.augmentation.rand_augment:  # a misspelt one is told before any work
            rand_augment(self.recipe.augmentation.rand_augment, self.recipe.augmentation.interpolation)
        distils = self.recipe.distillation != "none"
        if distils and not self.teacher:
            kind = self.recipe.distillation
            raise InputError(
                f"the recipe distils ({kind}) and there is no --teacher; give one, or --distillation none"
            )
        if self.teacher and not distils:
            raise InputError("--teacher without distillation in the recipe; add --distillation hard or soft")

    def document(self) -> dict[str, Any]:
        """What tells it from other trainings: how it is run (workers, device, logs) does not."""
        plain = {
            "format": FORMAT,
            "model": self.model,
            "data": str(self.data.resolve()),
            "recipe": self.recipe.to_json(),
            "pretrained": self.pretrained,
            "teacher": self.teacher,
            "teacher_weights": self.teacher_weights,
            "keep": self.keep,
            "max_unreadable": self.max_unreadable,
        }
        return json.loads(json.dumps(plain))


def train(job: TrainJob, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train one network; take up a training that was stopped.

    Args:
        job: what is asked for.
        out: the run's folder.
        progress: told how far it is; processes other than the first are silent.

    Returns:
        the summary, as written to `summary.json`.

    Raises:
        InputError: for images, a network, weights or a folder that do not fit.
        Stopped: on Ctrl-C or SIGTERM, when the state is saved.
    """
    folder = RunFolder(out)
    folder.check(job)
    with joined(job.device) as world:
        progress = (progress or Progress()) if world.main else Progress(None)
        if folder.file("summary.json").exists():
            progress.line(f"{out}: this training is done already")
            return read_json(folder.file("summary.json"))
        with folder.locked() if world.main else nullcontext():
            if world.main and not folder.file("job.json").exists():
                shutil.rmtree(folder.work(""), ignore_errors=True)  # of an attempt that was refused
            world.wait()
            return _train(job, folder, world, progress)


def _train(job: TrainJob, folder: RunFolder, world: World, progress: Progress) -> dict[str, Any]:
    begun, recipe, work = time.monotonic(), job.recipe, folder.work("data")
    progress.stage(f"reading {job.data}")
    _check_shares(recipe, world)
    parts = _opened(job, work, world, progress)
    begins = student(job.model, len(parts.classes), recipe, job.pretrained)
    with ExitStack() as stack:
        teacher = _teacher(job, parts, world, stack)
        if world.main:
            folder.claim(job)  # from here on the folder is this training's
        data = open_data(
            parts,
            recipe,
            work,
            world,
            keep=job.keep,
            workers=job.workers,
            max_unreadable=job.max_unreadable,
            progress=progress,
        )
        stack.callback(data.close)
        log = Log(folder.root if world.main else None, job.logs if world.main else (), job.model)
        stack.callback(log.close)
        progress.stage(_title(job, data, world))
        judge = _Judge(job, data, world, log, progress)
        learner = learn(
            begins.network,
            data.train,
            recipe,
            folder.work("training.safetensors"),
            classes=len(parts.classes),
            title=job.model,
            world=world,
            teacher=teacher,
            identity={"data": parts.train.digest(), "job": job.document()},
            after_epoch=judge,
            checkpoint_s=job.checkpoint_s,
            log=log,
            progress=progress,
        )
        summary = _summary(job, begins, data, world, judge.of(learner))
    summary["seconds"] = round(time.monotonic() - begun, 1)
    if world.main:
        _keep(folder, job, learner, summary)
    world.wait()
    return summary


def _check_shares(recipe: Recipe, world: World) -> None:
    """Every process must have a share of each step, and as large a one as the others."""
    parts = world.size * recipe.accumulate
    if recipe.batch_size % world.size or recipe.batch_size < 2 * parts:
        shares = f"{world.size} processes in {recipe.accumulate} parts each"
        raise InputError(
            f"batch_size {recipe.batch_size} cannot be shared by {shares}: give a multiple of {world.size} "
            f"that is at least {2 * parts}"
        )


def _opened(job: TrainJob, work: Path, world: World, progress: Progress) -> Parts:
    """The data set; what is kept of its shards is written by the first process, read by the others."""
    if not world.main:
        world.wait()
    parts = open_parts(job.data, job.recipe.seed, cache=work, progress=progress)
    if world.main:
        world.wait()
    return parts


def _teacher(job: TrainJob, parts: Parts, world: World, stack: ExitStack) -> Teacher | None:
    if not job.teacher:
        return None
    found = stack.enter_context(classifier(job.teacher, pretrained=job.teacher_weights)).to(world.device)
    return Teacher(found, outputs_of(parts.classes, found.outputs, found.classes, found.name))


def _title(job: TrainJob, data: TrainingData, world: World) -> str:
    processes = f" in {world.size} processes" if world.size > 1 else ""
    count = f"{data.train.order.length} images of {len(data.parts.classes)} classes ({data.keep})"
    return f"training {job.model} on {count}, {job.recipe.epochs} epochs{processes}, {world.device}"


class _Judge:
    """Scores the network, and its moving average, on the validation images after an epoch."""

    def __init__(self, job: TrainJob, data: TrainingData, world: World, log: Log, progress: Progress) -> None:
        self.job, self.data, self.world, self.log, self.progress = job, data, world, log, progress
        self._last: dict[str, Accuracy] = {}
        self._of = 0

    def __call__(self, epoch: int, learner: Learner, asked_to_stop: Callable[[], int]) -> None:
        """Score, tell and log; nothing of it if it is asked to stop meanwhile."""
        if epoch % self.job.evaluate_every and epoch != self.job.recipe.epochs:
            return
        scored = self._scored(learner, asked_to_stop)
        if self.world.any(bool(asked_to_stop())):
            return
        self._last, self._of = scored, epoch
        numbers: dict[str, float] = {}
        for name, accuracy in self._last.items():
            numbers[f"{name}/top1"] = accuracy.score.top1
            numbers[f"{name}/loss"] = accuracy.score.loss
        numbers["images"] = self._last["weights"].score.images
        self.log.epoch(epoch * self.data.train.order.steps_per_epoch, epoch, numbers)
        told = ", ".join(f"{name} {accuracy.score}" for name, accuracy in self._last.items())
        self.progress.line(f"   epoch {epoch}/{self.job.recipe.epochs}: top-1 {told}")

    def of(self, learner: Learner) -> dict[str, Accuracy]:
        """The accuracies at the end; counted anew if the last epoch was another call's."""
        return self._last if self._of == self.job.recipe.epochs else self._scored(learner, lambda: 0)

    @torch.no_grad()
    def _scored(self, learner: Learner, asked_to_stop: Callable[[], int]) -> dict[str, Accuracy]:
        networks = {"weights": learner.model.eval()}
        if learner.average:
            networks["average"] = learner.average.module.eval()
        tallies = {name: Tally(len(self.data.parts.classes), self.world.device) for name in networks}
        for network in networks.values():
            self.world.share_buffers(network)
        for x, labels in self.data.val():
            for name, network in networks.items():
                tallies[name].add(_mean(network(x)), labels)
            if asked_to_stop():
                break
        unreadable = self.data.unreadable(self.world.gather(self.data.unreadable(())))
        return {name: self._together(tally, unreadable) for name, tally in tallies.items()}

    def _together(self, tally: Tally, unreadable: tuple[str, ...]) -> Accuracy:
        for mine in tally.state():
            mine.copy_(self.world.sum(mine.cpu()))
        return tally.accuracy(unreadable)


def _mean(outputs: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (outputs[0] + outputs[1]) / 2 if isinstance(outputs, tuple) else outputs


def _summary(
    job: TrainJob, begins: Student, data: TrainingData, world: World, accuracies: dict[str, Accuracy]
) -> dict[str, Any]:
    classes, kept = data.parts.classes, accuracies["weights"]
    return {
        "format": FORMAT,
        "version": efficientformer.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": job.model,
        "pretrained": job.pretrained,
        "teacher": job.teacher,
        "top1": kept.score.top1,
        "top5": kept.top5,
        "images": kept.score.images,
        "params": sum(parameter.numel() for parameter in begins.network.parameters()),
        "seed": job.recipe.seed,
        "accuracy": {name: one.to_json(classes) for name, one in accuracies.items()},
        "recipe": job.recipe.to_json(),
        "preprocessing": data.protocol.to_json(),
        "classes": list(classes),
        "data": {
            "name": job.data.name,
            "train": data.train.order.length,
            "val": kept.score.images,
            "train_digest": data.parts.train.digest(),
            "val_digest": data.parts.val.digest(),
            "unreadable": list(kept.unreadable),
        },
        "processes": world.size,
        "device": str(world.device.type),
        "machine": fingerprint(Target("torch")),
    }


def _keep(folder: RunFolder, job: TrainJob, learner: Learner, summary: dict[str, Any]) -> None:
    """Weights, their moving average, the architecture; the summary last, for it says that the run is done."""
    networks = {"model.safetensors": learner.model}
    if learner.average:
        networks["average.safetensors"] = learner.average.module
    for name, network in networks.items():
        if isinstance(network, EfficientFormer):
            save_model(folder.file(name), network)
        else:
            save_tensors(folder.file(name), network.state_dict(), {"model": job.model})
    if isinstance(learner.model, EfficientFormer):
        write_json(folder.file("architecture.json"), learner.model.architecture.to_json())
    write_json(folder.file("recipe.json"), dataclasses.asdict(job.recipe))
    write_json(folder.file("summary.json"), summary)
    shutil.rmtree(folder.work(""), ignore_errors=True)
