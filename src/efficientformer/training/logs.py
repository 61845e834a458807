"""What a training leaves for people and programs: JSON lines always, TensorBoard by default, others by extra.

`log.jsonl` holds a line a step that was looked at and a line an epoch. A resumed training first takes back
what was written after its checkpoint, so the file reads as if it had never been interrupted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from efficientformer.errors import InputError
from efficientformer.files import write_atomically

LOG_EVERY = 20  # steps
Numbers = Mapping[str, float]


class Sink(Protocol):
    """Somewhere numbers go as they come."""

    def add(self, step: int, numbers: Numbers) -> None:
        """Numbers of a step, by name."""
        ...

    def close(self) -> None:
        """No more come."""
        ...


class TensorBoard:
    """Event files, for `tensorboard --logdir`; written by tensorboardX."""

    def __init__(self, folder: Path, title: str, step: int) -> None:
        from tensorboardX import SummaryWriter

        # What was written after the checkpoint is hidden by the next event file's purge step.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def add(self, step: int, numbers: Numbers) -> None:
        """Numbers of a step, by name."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class _Tracker:
    """wandb, and trackio, which has the same interface."""

    def __init__(self, module: str, folder: Path, title: str) -> None:
        try:
            self._tracker = __import__(module)
        except ImportError:
            raise InputError(
                f"--tracker {module}: is not installed; pip install 'efficientformer[{module}]'"
            ) from None
        self._tracker.init(project="efficientformer", name=title or folder.name)

    def add(self, step: int, numbers: Numbers) -> None:
        """Numbers of a step, by name."""
        self._tracker.log(dict(numbers), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._tracker.finish()


SINKS: dict[str, Callable[[Path, str, int], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda folder, title, _: _Tracker("wandb", folder, title),
    "trackio": lambda folder, title, _: _Tracker("trackio", folder, title),
}


class Log:
    """A training's log; `Log(None)` is silent.

    Args:
        folder: of `log.jsonl` and what the sinks write.
        sinks: names of `SINKS`.
        title: of the training.
        every: a line of so many steps; epochs always have theirs.

    Raises:
        InputError: if a sink is not known or not installed.
    """

    def __init__(
        self, folder: Path | None, sinks: Sequence[str] = (), title: str = "", every: int = LOG_EVERY
    ) -> None:
        for name in sinks:
            if name not in SINKS:
                raise InputError(f"--tracker {name}: is not known; give one of {', '.join(SINKS)}")
        self._folder, self._names, self._title, self._every = folder, sinks, title, every
        self._sinks: list[Sink] = []
        self._images, self._since = 0, time.monotonic()

    @property
    def path(self) -> Path | None:
        """The file of JSON lines."""
        return self._folder / "log.jsonl" if self._folder else None

    def resume(self, step: int) -> None:
        """Begin, or go on after a step: lines of later ones are taken back.

        Raises:
            InputError: if a sink is not installed.
        """
        if self._folder and self.path:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                kept = [line for line in read_log(self.path) if _is_before(line, step)]
                write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
            self._sinks = [SINKS[name](self._folder, self._title, step) for name in self._names]
        self._images, self._since = 0, time.monotonic()

    def step(self, step: int, *, loss: float, learning_rate: float, images: int) -> None:
        """A step was made; a line of every so many."""
        self._images += images
        if not self._folder or step % self._every:
            return
        seconds = time.monotonic() - self._since
        numbers = {"loss": loss, "learning_rate": learning_rate, "images_per_second": self._images / seconds}
        self._write("step", step, numbers)
        self._images, self._since = 0, time.monotonic()

    def epoch(self, step: int, epoch: int, numbers: Numbers) -> None:
        """An epoch is over: its accuracy."""
        self._write("epoch", step, {"epoch": epoch, **numbers})
        self._images, self._since = 0, time.monotonic()  # evaluation is no training

    def close(self) -> None:
        """No more comes."""
        for sink in self._sinks:
            sink.close()
        self._sinks = []

    def _write(self, kind: str, step: int, numbers: Numbers) -> None:
        if not self.path:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")
        for sink in self._sinks:
            sink.add(step, {name: value for name, value in numbers.items() if name != "epoch"})


def _is_before(line: Mapping[str, Any], step: int) -> bool:
    """Whether a line was written before the checkpoint of a step, at which an epoch's end is told anew."""
    return line["step"] < step or (line["step"] == step and line["kind"] == "step" and step > 0)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a kill left half-written is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
