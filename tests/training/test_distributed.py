"""Two processes train as one: the same images, the same weights, the same bits after a stop."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
import timm
import torch

from efficientformer import InputError
from efficientformer.training.distributed import World, joined
from efficientformer.training.sync_norm import synchronised

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
@pytest.mark.parametrize("kind", ["network", "supernet", "elastic"])
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
    """Up to the order of sums, which Adam's first steps enlarge where gradients are next to nothing."""
    assert results["alone_or_together"] < 0.1


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


class Together:
    """Stands for a sum over two processes that hold the same images."""

    def __call__(self, tensor: torch.Tensor) -> None:
        tensor.mul_(2)


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet10t", "levit_128s"])
def test_sync_norm_keeps_what_else_a_norm_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's norms hold activations; with the same images everywhere nothing changes, in training or not."""
    monkeypatch.setattr("torch.distributed.all_reduce", Together())
    torch.manual_seed(0)
    alone = timm.create_model(name, num_classes=3)
    together = copy.deepcopy(alone)
    synchronised(together, torch.device("cpu"))
    x = torch.randn(4, 3, 224, 224) if name == "levit_128s" else torch.randn(4, 3, 64, 64)
    for mode in (False, True):  # training changes the statistics, by how many images there are
        mine, theirs = (model.train(mode)(x) for model in (together, alone))
        assert torch.allclose(mine, theirs, atol=1e-4)
