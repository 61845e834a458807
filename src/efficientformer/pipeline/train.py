"""`train`: one network learns by a recipe, in one process or many; what it reached is measured and kept.

efficientformer train efficientformer_l1 --data photos --recipe scratch --out runs/l1
torchrun --nproc-per-node 2 -m efficientformer.cli train efficientformer_l1 --data photos --out runs/l1
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import efficientformer
from efficientformer.data.sources import open_parts
from efficientformer.data.sources.base import Parts
from efficientformer.errors import InputError
from efficientformer.evaluation.classifier import classifier
from efficientformer.evaluation.labels import outputs_of
from efficientformer.evaluation.score import Accuracy
from efficientformer.files import read_json, write_json
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.target import Target
from efficientformer.model.checkpoint import save_model
from efficientformer.model.network import EfficientFormer
from efficientformer.model.weights import save_tensors
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.student import Student, student
from efficientformer.pipeline.train_job import FORMAT, TrainJob
from efficientformer.pipeline.train_judge import Judge
from efficientformer.pipeline.training_data import TrainingData, open_data
from efficientformer.progress import Progress
from efficientformer.training.distillation import Teacher
from efficientformer.training.distributed import World, joined
from efficientformer.training.learner import Learner
from efficientformer.training.logs import LOG_EVERY, Log
from efficientformer.training.loop import train as learn
from efficientformer.training.recipe import Recipe


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
    with world.main_first():  # it indexes shards
        parts = open_parts(job.data, recipe.seed, cache=work, progress=progress)
    begins = student(job.model, len(parts.classes), recipe, job.pretrained)
    _tell(job, begins, len(parts.classes), progress)
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
        log = _log(job, folder, world, data.train.order.steps_per_epoch)
        stack.callback(log.close)
        progress.stage(_title(job, data, world))
        judge = Judge(job, data, world, log, progress)
        learner = learn(
            begins.network,
            data.train,
            recipe,
            folder.work("training.safetensors"),
            classes=len(parts.classes),
            title=job.model,
            world=world,
            teacher=teacher,
            identity={"data": parts.train.digest()},
            after_epoch=judge,
            checkpoint_s=job.checkpoint_s,
            log=log,
            progress=progress,
        )
        summary = _summary(job, begins, data, world, judge.of(learner))
    summary["seconds"] = round(time.monotonic() - begun, 1)
    if world.main:
        _keep(folder, learner, summary)
    world.wait()
    return summary


def _tell(job: TrainJob, begins: Student, classes: int, progress: Progress) -> None:
    """What a person may not expect of how it begins."""
    recipe = job.recipe
    if begins.pretrained:
        source = job.pretrained or job.model
        progress.line(f"   goes on from {source}, at {recipe.input_size} px, with {classes} classes")
    if recipe.warmup_epochs >= recipe.epochs:
        warm = f"the warm-up of {recipe.warmup_epochs:g} epochs is all of the training"
        progress.line(f"   {warm}: consider --warmup-epochs {recipe.epochs / 10:g}")


def _check_shares(recipe: Recipe, world: World) -> None:
    """Every process must have a share of each step, and as large a one as the others."""
    parts = world.size * recipe.accumulate
    if recipe.batch_size % world.size or recipe.batch_size < 2 * parts:
        shares = f"{world.size} processes in {recipe.accumulate} parts each"
        raise InputError(
            f"batch_size {recipe.batch_size} cannot be shared by {shares}: give a multiple of {world.size} "
            f"that is at least {2 * parts}"
        )


def _teacher(job: TrainJob, parts: Parts, world: World, stack: ExitStack) -> Teacher | None:
    if not job.teacher:
        return None
    try:
        found = classifier(job.teacher, pretrained=job.teacher_weights)
    except InputError as error:
        raise InputError(f"teacher {error}".replace("--pretrained", "--teacher-weights")) from None
    stack.enter_context(found).to(world.device)
    return Teacher(found, outputs_of(parts.classes, found.outputs, found.classes, found.name))


def _log(job: TrainJob, folder: RunFolder, world: World, steps_per_epoch: int) -> Log:
    """The first process's log, with a line of at least every epoch's last step; silent in the others."""
    if not world.main:
        return Log(None)
    return Log(folder.root, job.logs, job.model, every=min(LOG_EVERY, steps_per_epoch))


def _title(job: TrainJob, data: TrainingData, world: World) -> str:
    processes = f" in {world.size} processes" if world.size > 1 else ""
    count = f"{data.train.order.length} images of {len(data.parts.classes)} classes ({data.keep})"
    taught = f", taught by {job.teacher} ({job.recipe.distillation})" if job.teacher else ""
    return f"training {job.model} on {count}, {job.recipe.epochs} epochs{processes}, {world.device}{taught}"


def _summary(
    job: TrainJob, begins: Student, data: TrainingData, world: World, accuracies: dict[str, Accuracy]
) -> dict[str, Any]:
    classes, kept = data.parts.classes, accuracies["weights"]
    return {
        "format": FORMAT,
        "version": efficientformer.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": begins.name,
        "begun_from": job.model,
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


def _keep(folder: RunFolder, learner: Learner, summary: dict[str, Any]) -> None:
    """Weights, their moving average, the architecture; the summary last, for it says that the run is done."""
    networks = {"model.safetensors": learner.model}
    if learner.average:
        networks["average.safetensors"] = learner.average.module
    for name, network in networks.items():
        if isinstance(network, EfficientFormer):
            save_model(folder.file(name), network)
        else:
            save_tensors(folder.file(name), network.state_dict(), {"model": summary["model"]})
    if isinstance(learner.model, EfficientFormer):
        write_json(folder.file("architecture.json"), learner.model.architecture.to_json())
    write_json(folder.file("recipe.json"), summary["recipe"])
    write_json(folder.file("summary.json"), summary)
    shutil.rmtree(folder.work(""), ignore_errors=True)
