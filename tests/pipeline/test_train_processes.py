"""`train` as people start it, in processes of its own: stopped, killed, taken up; and under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efficientformer.files import write_json
from efficientformer.training.logs import read_log
from tests.conftest import MakeImages
from tests.strategies import tiny

PYTHON = (sys.executable, "-m")
TORCHRUN = (*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
EPOCHS = "40"  # of 6 steps
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


@pytest.fixture
def options(make_images: MakeImages, tmp_path: Path) -> list[str]:
    """A training of seconds: a tiny network, 48 pictures read by a worker, ten checkpoints a second."""
    photos = make_images({"blue": 20, "green": 20, "red": 20})
    write_json(tmp_path / "tiny.json", tiny().to_json())
    return [
        *("efficientformer.cli", "train", str(tmp_path / "tiny.json"), "--data", str(photos)),
        *("--epochs", EPOCHS, "--input-size", "32", "--batch-size", "8", "--mixup", "0.2", "--ema", "0.9"),
        *("--keep", "stream", "--workers", "1", "--device", "cpu", "--tracker", "none"),
        *("--evaluate-every", "20", "--checkpoint-every", "0.1"),
    ]


def start(launcher: tuple[str, ...], options: list[str], out: Path) -> subprocess.Popen[str]:
    command = [*launcher, *(("-m",) if launcher is not PYTHON else ()), *options, "--out", str(out)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told[-3000:]
    return told


def until_it_trains(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Wait for a line of the log about this step or a later one."""
    for _ in range(1200):
        log = out / "log.jsonl"
        if log.exists() and any(line["step"] >= step for line in read_log(log)):
            return
        assert process.poll() is None, "ended before it was stopped"
        time.sleep(0.05)
    raise AssertionError("did not begin to train")


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes() + (out / "average.safetensors").read_bytes()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sigterm_saves_and_exits_with_0_and_sigkill_loses_no_more_than_the_last_steps(
    options: list[str], tmp_path: Path
) -> None:
    finish(start(PYTHON, options, tmp_path / "whole"))
    parted = tmp_path / "parted"
    process = start(PYTHON, options, parted)
    until_it_trains(process, parted, 40)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on from here" in finish(process)
    assert not (parted / "summary.json").exists()
    process = start(PYTHON, options, parted)
    until_it_trains(process, parted, 120)
    process.kill()
    process.communicate()
    told = finish(start(PYTHON, options, parted))
    assert "going on after step" in told
    assert weights(parted) == weights(tmp_path / "whole")
    steps = [line["step"] for line in read_log(parted / "log.jsonl") if line["kind"] == "step"]
    assert steps == list(range(6, 241, 6))  # the last of each epoch


def test_torchrun_stops_goes_on_and_starts_a_lost_process_again(options: list[str], tmp_path: Path) -> None:
    elastic = (*TORCHRUN, "--max-restarts", "1")
    finish(start(TORCHRUN, options, tmp_path / "whole"))
    parted = tmp_path / "parted"
    process = start(TORCHRUN, options, parted)
    until_it_trains(process, parted, 40)
    for worker in children(process.pid):  # as a cluster's scheduler does: to every process
        os.kill(worker, signal.SIGTERM)
    finish(process)
    assert not (parted / "summary.json").exists()
    process = start(elastic, options, parted)
    until_it_trains(process, parted, 120)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    finish(process)  # torchrun started both again
    assert weights(parted) == weights(tmp_path / "whole")
