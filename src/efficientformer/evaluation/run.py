"""Whatever can be named, scored on the pictures of a data set; several networks see the same ones.

    efficientformer evaluate runs/mine runs/mine/model.onnx --data photos

Where the data set has fewer classes than a network has outputs, logits are compared among the data set's
classes alone: the others are no answer. What the network would say among all of them is kept beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from efficientformer.data.bad_files import MAX_UNREADABLE, BadFiles
from efficientformer.data.stream import evaluation_stream
from efficientformer.errors import InputError
from efficientformer.evaluation.classifier import Classifier, classifier
from efficientformer.evaluation.labels import outputs_of
from efficientformer.evaluation.pictures import Pictures, open_pictures
from efficientformer.evaluation.protocol import Protocol
from efficientformer.evaluation.result import Evaluation
from efficientformer.evaluation.score import Tally
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.subjects import TIMM, runtime_of
from efficientformer.latency.target import Target
from efficientformer.presets import PRESETS
from efficientformer.progress import Progress

OWN = "run"  # a network's own protocol, by name
BATCH_SIZE, WORKERS = 64, min(8, os.cpu_count() or 1)
_PACKAGES = ("efficientformer", "torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True)
class Request:
    """How networks are scored.

    Attributes:
        protocol: as `Protocol.parse` takes it; `run` or None for each network's own.
        pretrained: weights of presets and timm's networks: a file, or `hub`.
        input_size: pixels of a side; each network's own by default.
        target: where exported files run.
        device: where the other networks run.
        workers: processes that decode; 0 for none but this one.
        batch_size: pictures a batch.
        max_unreadable: greatest share of unreadable pictures.
    """

    protocol: str | None = None
    pretrained: str | None = None
    input_size: int | None = None
    target: Target | None = None
    device: str = "cpu"
    workers: int = WORKERS
    batch_size: int = BATCH_SIZE
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        if self.workers < 0 or self.batch_size < 1:
            given = f"--workers {self.workers} --batch-size {self.batch_size}"
            raise InputError(f"{given}: needs no fewer than 0 workers and 1 picture a batch")
        if not 0 <= self.max_unreadable <= 1:
            raise InputError(f"--max-unreadable {self.max_unreadable}: is a share between 0 and 1")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"--device {self.device}: no CUDA device is visible to torch; leave it out")


def evaluate_named(
    model: str,
    data: Path,
    *,
    split: str = "val",
    protocol: str | None = None,
    pretrained: str | None = None,
    input_size: int | None = None,
    target: Target | None = None,
    limit: int | None = None,
    seed: int | None = None,
    workers: int = WORKERS,
    batch_size: int = BATCH_SIZE,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Score one network by what a person calls it; the arguments are `open_pictures`' and `Request`'s.

    Raises:
        InputError: if there is no such network or data set, they do not fit, or outputs are not numbers.
    """
    request = Request(protocol, pretrained, input_size, target, device, workers, batch_size)
    pictures = open_pictures(data, split, limit, seed, models=[model], progress=progress)
    return evaluate_several([model], pictures, request, progress)[0]


def evaluate_several(
    models: Sequence[str],
    pictures: Pictures,
    request: Request | None = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Score networks on the same pictures; those prepared alike share one pass over the data.

    Args:
        models: names as `classifier` takes them.
        pictures: what on.
        request: how.
        progress: told how far it is, and of each picture left out.

    Raises:
        InputError: if a name stands for no network, a network's outputs do not fit the classes or are not
            numbers, or too many pictures are unreadable.
    """
    request, progress = request or Request(), progress or Progress(None)
    bad = BadFiles(len(pictures.source), request.max_unreadable, progress.line)
    with contextlib.ExitStack() as stack:
        rows = [_Row(stack.enter_context(one), pictures, request) for one in _classifiers(models, request)]
        for sharing in _alike(rows):
            progress.stage(f"{', '.join(row.network.name for row in sharing)} · {sharing[0].protocol}")
            _one_pass(sharing, pictures, request, bad, progress)
    return [row.evaluation(pictures, request, bad.names) for row in rows]


class _Row:
    """A network at work."""

    def __init__(self, network: Classifier, pictures: Pictures, request: Request) -> None:
        self.network, self.protocol = network.to(request.device), _protocol(network, request.protocol)
        try:
            found = outputs_of(pictures.classes, network.outputs, network.classes)
        except InputError as error:
            raise InputError(f"{network.name}: {error}") from None
        self.all_asked = len(found) == network.outputs
        self.outputs = torch.from_numpy(found).to(request.device)
        self.tally = Tally(len(found), request.device)
        self.right_of_all = torch.zeros((), dtype=torch.int64, device=request.device)
        self.guesses: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, x: Tensor, labels: Tensor) -> None:
        logits = self.network.logits(x)
        asked = logits[:, self.outputs]
        self.tally.add(asked, labels)
        self.guesses.append(asked.argmax(1))
        self.labels.append(labels)
        self.right_of_all += (logits.argmax(1) == self.outputs[labels]).sum()

    def evaluation(self, pictures: Pictures, request: Request, unreadable: Sequence[str]) -> Evaluation:
        network, path = self.network, Path(self.network.name)
        try:
            accuracy = self.tally.accuracy(unreadable)
        except InputError as error:
            raise InputError(f"{network.name}: {error}") from None
        file = runtime_of(path) if network.kind == "file" else None
        where = str(request.target or file) if file else request.device
        machine = fingerprint(Target(file or "torch"))
        if not file and request.device.startswith("cuda"):
            machine["accelerator"] = torch.cuda.get_device_name(request.device)
        return Evaluation(
            network.name,
            network.kind,
            where,
            self.protocol,
            accuracy,
            None if self.all_asked else int(self.right_of_all) / accuracy.score.images,
            pictures,
            torch.cat(self.labels).cpu().numpy(),
            torch.cat(self.guesses).cpu().numpy(),
            machine,
            {name: importlib.metadata.version(name) for name in _PACKAGES},
            datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _classifiers(models: Sequence[str], request: Request) -> Iterable[Classifier]:
    """The networks, one after the other; an option goes to those that it is for, if there are any."""
    files = [one for one in models if Path(one).exists() and runtime_of(Path(one))]
    named = [one for one in models if one.startswith(TIMM) or one.partition(".")[0] in PRESETS]
    named = [one for one in named if not Path(one).exists()]
    for one in models:
        yield classifier(
            one,
            pretrained=request.pretrained if one in (named or models) else None,
            input_size=request.input_size,
            target=request.target if one in (files or models) else None,
        )


def _protocol(network: Classifier, text: str | None) -> Protocol:
    """The one that was asked for, with the network's own mean and deviation."""
    own = network.protocol
    if text is None:
        return own
    if text == OWN:
        if own.name != OWN:
            raise InputError(f"{network.name}: is no run's, so there is no protocol it stored; leave it out")
        return own
    return dataclasses.replace(Protocol.parse(text, own.crop), mean=own.mean, std=own.std)


def _alike(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Rows by how they prepare pictures, whatever that is called."""
    groups: dict[Protocol, list[_Row]] = {}
    for row in rows:
        groups.setdefault(dataclasses.replace(row.protocol, name=""), []).append(row)
    return list(groups.values())


def _one_pass(
    rows: Sequence[_Row], pictures: Pictures, request: Request, bad: BadFiles, progress: Progress
) -> None:
    """Every picture once, to networks that want it prepared alike."""
    stream = evaluation_stream(
        pictures.source,
        rows[0].protocol.prepare,
        workers=request.workers,
        batch_size=request.batch_size,
        device=request.device,
    )
    done = 0
    for batch in stream:
        bad.add(batch.bad)
        done += len(batch.labels) + len(batch.bad)
        if len(batch.labels):
            x = batch.pixels.to(request.device, non_blocking=True, memory_format=torch.channels_last)
            labels = batch.labels.to(request.device, non_blocking=True)
            for row in rows:
                row.add(x, labels)
        progress.update(done, len(pictures.source), "pictures scored")
