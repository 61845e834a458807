"""JSON lines that read as if a training had never been interrupted; TensorBoard's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from efficientformer import InputError
from efficientformer.training.logs import Log, read_log


def told(log: Log, first: int, last: int) -> None:
    for step in range(first, last + 1):
        log.step(step, loss=1 / step, learning_rate=0.1, images=8)
        if step % 4 == 0:
            log.epoch(step, step // 4, {"weights/top1": step / 10})


def test_lines_of_steps_and_epochs(tmp_path: Path) -> None:
    log = Log(tmp_path, every=2)
    log.resume(0)
    told(log, 1, 5)
    lines = read_log(tmp_path / "log.jsonl")
    assert [(line["kind"], line["step"]) for line in lines] == [("step", 2), ("step", 4), ("epoch", 4)]
    assert lines[0]["loss"] == 0.5
    assert lines[0]["images_per_second"] > 0
    assert lines[2] == {"kind": "epoch", "step": 4, "epoch": 1, "weights/top1": 0.4}


def test_a_resumed_log_reads_as_if_never_interrupted(tmp_path: Path) -> None:
    log = Log(tmp_path, every=1)
    log.resume(0)
    told(log, 1, 6)
    again = Log(tmp_path, every=1)
    again.resume(3)  # the last checkpoint
    told(again, 4, 8)
    steps = [(line["kind"], line["step"]) for line in read_log(tmp_path / "log.jsonl")]
    assert steps == [
        *(("step", step) for step in (1, 2, 3, 4)),
        ("epoch", 4),
        *(("step", step) for step in (5, 6, 7, 8)),
        ("epoch", 8),
    ]


def test_a_new_training_begins_a_new_log(tmp_path: Path) -> None:
    for _ in range(2):
        log = Log(tmp_path, every=1)
        log.resume(0)
        told(log, 1, 2)
    assert len(read_log(tmp_path / "log.jsonl")) == 2


def test_a_line_that_a_kill_left_half_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    assert read_log(tmp_path / "log.jsonl") == [{"kind": "step", "step": 1}]


def test_a_silent_log_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(None)
    log.resume(0)
    told(log, 1, 40)
    log.close()
    assert list(tmp_path.iterdir()) == []


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Scalars in the event files: each record is length (8 bytes), crc (4), event, crc (4)."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            length = int.from_bytes(content[place : place + 8], "little")
            event = Event.FromString(content[place + 12 : place + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            place += 16 + length
    return found


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    log = Log(tmp_path, ("tensorboard",), every=2)
    log.resume(0)
    told(log, 1, 4)
    log.close()
    found = events(tmp_path)
    assert ("loss", 2, 0.5) in found
    assert ("weights/top1", 4, pytest.approx(0.4)) in found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tensorbord",), "--tracker tensorbord: is not known; give one of tensorboard, wandb, trackio"),
    ],
)
def test_an_unknown_log_is_refused(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Log(tmp_path, names)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_names_its_extra(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError, match=rf"pip install 'efficientformer\[{name}\]'"):
        Log(tmp_path, (name,)).resume(0)


class FakeTracker:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.calls.append((step, numbers))

    def finish(self) -> None:
        self.calls.append("finish")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_is_told_all(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTracker()
    monkeypatch.setitem(__import__("sys").modules, name, fake)
    log = Log(tmp_path, (name,), "l1", every=2)
    log.resume(0)
    told(log, 1, 2)
    log.close()
    assert fake.calls[0] == ("init", {"project": "efficientformer", "name": "l1"})
    assert fake.calls[1][0] == 2
    assert fake.calls[1][1]["loss"] == 0.5
    assert fake.calls[-1] == "finish"
