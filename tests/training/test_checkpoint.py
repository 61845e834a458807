from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from efficientformer import InputError
from efficientformer.training.checkpoint import restore, write
from efficientformer.training.learner import Learner, Part
from efficientformer.training.recipe import Recipe

JOB = {"title": "t", "recipe": {"epochs": 2}}
RECIPE = Recipe(epochs=1, learning_rate=0.1, ema=0.9, precision="fp16")


def network(seed: int, width: int = 4) -> Learner:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))
    return Learner(model, RECIPE)


def steps(learner: Learner, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(step))
        learner.step(Part(x, torch.eye(2)[[0, 1, 0, 1, 1]]), step)


def states(learner: Learner) -> list[torch.Tensor]:
    kept = [state[key] for state in learner.optimizer.state.values() for key in sorted(state)]
    average = learner.average.module.state_dict().values() if learner.average else ()
    scale = torch.tensor(list(learner.scaler.state_dict().values()))
    return [*learner.model.state_dict().values(), *average, scale, *kept]


def test_a_state_comes_back_bit_for_bit_and_goes_on_alike(tmp_path: Path) -> None:
    original, restored = network(0), network(1)
    steps(original, 0, 3)
    write(tmp_path / "state.safetensors", original, 3, JOB)
    assert restore(tmp_path / "state.safetensors", restored, JOB) == 3
    assert len(states(original)) == len(states(restored)) > 10
    for first, second in zip(states(original), states(restored), strict=True):
        assert torch.equal(first, second)
    steps(original, 3, 6)
    steps(restored, 3, 6)
    for first, second in zip(states(original), states(restored), strict=True):
        assert torch.equal(first, second)


def test_without_a_file_nothing_is_done_yet(tmp_path: Path) -> None:
    pair = network(0)
    before = [tensor.clone() for tensor in states(pair)]
    assert restore(tmp_path / "state.safetensors", pair, JOB) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, states(pair), strict=True))


def test_a_state_before_the_first_step(tmp_path: Path) -> None:
    original, restored = network(0), network(1)
    write(tmp_path / "state.safetensors", original, 0, JOB)
    assert restore(tmp_path / "state.safetensors", restored, JOB) == 0
    assert all(torch.equal(a, b) for a, b in zip(states(original), states(restored), strict=True))


def test_a_state_is_plain_safetensors(tmp_path: Path) -> None:
    pair = network(0)
    steps(pair, 0, 1)
    write(tmp_path / "state.safetensors", pair, 1, JOB)
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {
        "model.0.weight",
        "model.1.running_mean",
        "optimizer.0.exp_avg",
        "optimizer.0.step",
        "average.0.weight",
    } <= names
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("job", [{}, {"title": "other"}, JOB | {"seed": 1}, {"recipe": JOB["recipe"]}])
def test_a_state_of_another_job_is_refused(job: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "state.safetensors", network(0), 1, JOB)
    with pytest.raises(InputError, match="belongs to a training with other settings; remove it"):
        restore(tmp_path / "state.safetensors", network(0), job)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_state_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write(path, network(0), 1, JOB)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="cannot be read as weights"):
        restore(path, network(0), JOB)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "state.safetensors", network(0), 1, JOB)
    with pytest.raises(InputError):
        restore(tmp_path / "state.safetensors", network(0, width=5), JOB)


def test_a_state_may_have_any_name(tmp_path: Path) -> None:
    write(tmp_path / "state", network(0), 1, JOB)
    assert restore(tmp_path / "state", network(0), JOB) == 1
