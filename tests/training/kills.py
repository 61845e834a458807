"""Kills a process that saves checkpoints as fast as it can, again and again; run by test_kills.py.

    python -m tests.training.kills FOLDER KILLS SEED

Each time the last good checkpoint must load and be whole: all its tensors of one step, the one it names, and
no older than the last that was seen. Prints how many were seen, and in how many kills a write was under way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import efficientformer  # noqa: F401 - before timm: it repairs torchvision
from efficientformer.training import checkpoint
from efficientformer.training.learner import Learner
from efficientformer.training.recipe import Recipe

ABOUT = {"title": "t"}
RECIPE = Recipe(epochs=1, ema=0.9)


def learner() -> Learner:
    """About 2 MB of weights, momenta and average."""
    torch.manual_seed(0)
    made = Learner(nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256)), RECIPE)
    for parameter in made.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.optimizer.step()  # so that there are momenta
    return made


def save_for_ever(state: Path, first: int) -> None:
    """Checkpoints of steps from `first` on, every tensor of each filled with its step."""
    made, step = learner(), first
    while True:
        for model in (made.model, made.average.module if made.average else made.model):
            for parameter in model.parameters():
                parameter.data.fill_(float(step))
        for entry in made.optimizer.state.values():
            entry["exp_avg"].fill_(float(step))
        checkpoint.write(state, made, step, ABOUT)
        step += 1


def whole(state: Path) -> int:
    """The step of the checkpoint, checked."""
    made = learner()
    step = checkpoint.restore(state, made, ABOUT)
    average = made.average.module if made.average else made.model
    tensors = [*made.model.parameters(), *average.parameters()]
    tensors += [entry["exp_avg"] for entry in made.optimizer.state.values()]
    for tensor in tensors if step else []:
        if not bool((tensor == float(step)).all()):
            raise AssertionError(f"step {step}: a tensor holds {tensor.flatten()[:3]}")
    return step


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill, look, go on."""
    torch.set_num_threads(1)
    state, chance = folder / "state.safetensors", random.Random(seed)
    last = seen = under_way = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            save_for_ever(state, last + 1)
        time.sleep(chance.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        under_way += state.with_name(state.name + ".partial").exists()
        step = whole(state)
        if step < last:
            raise AssertionError(f"step {step} after {last}")
        seen, last = seen + (step > last), step
    print(json.dumps({"kills": kills, "went_on": seen, "under_way": under_way, "steps": last}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
