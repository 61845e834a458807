"""Two processes train as one: the same images, the same weights, the same bits after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from efficientformer import InputError
from efficientformer.training.distributed import World, joined

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `two_processes.py` found."""
    folder = tmp_path_factory.mktemp("two")
    command = [*TORCHRUN, "-m", "tests.training.two_processes", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["network", "supernet"])
def test_a_training_stopped_within_an_epoch_resumes_bit_for_bit(results: dict[str, Any], kind: str) -> None:
    """With mixing, erasing, dropped paths, a moving average; the network with accumulation and sync norm."""
    assert results[kind] is True


@pytest.mark.slow
def test_the_processes_hold_the_same_weights(results: dict[str, Any]) -> None:
    assert results["agree"] is True


@pytest.mark.slow
def test_together_they_draw_each_image_of_a_step_once(results: dict[str, Any]) -> None:
    assert results["numbers"] == list(range(16))


@pytest.mark.slow
def test_sync_norm_is_that_of_the_whole_batch(results: dict[str, Any]) -> None:
    assert results["sync_norm_error"] < 1e-5


@pytest.mark.slow
def test_two_processes_with_sync_norm_learn_what_one_does(results: dict[str, Any]) -> None:
    """Up to the order of sums; Adam's first steps enlarge it where gradients are next to nothing."""
    assert results["alone_or_together"] < 0.05


def test_one_process_needs_nothing_of_torch_distributed() -> None:
    with joined("cpu") as world:
        assert (world.rank, world.size, world.main) == (0, 1, True)
        assert world.any(True)
        assert not world.any(False)
        assert world.gather(("a",)) == ("a",)
        world.wait()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no CUDA device"), joined("cuda"):
        pass
    with pytest.raises(InputError, match="--device tpu: give cpu, cuda or auto"), joined("tpu"):
        pass


def test_a_world_of_one_is_on_the_processor() -> None:
    assert World().device.type == "cpu"
