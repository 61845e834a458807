"""Where a training stands, in one safetensors file: weights, optimiser, average, loss scale, step. No pickle.

Data order, augmentation, mixing and noise are functions of (seed, step) and the learning rate of the step, so
the step is all there is to keep of samplers, generators and schedule.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.model.weights import read_about, read_safetensors, save_tensors
from efficientformer.training.learner import Learner
from efficientformer.training.stopping import Stopped

SAVING_SHARE = 0.05  # of the time may go into checkpoints


class Keeper:
    """Keeps a training's checkpoint up to date, and ends the training when it is asked to stop.

    Args:
        path: of the checkpoint; the first process writes it, all read it.
        learner: what is kept.
        about: what job it belongs to.
        every_s: seconds between two checkpoints; longer where saving would take more than `SAVING_SHARE`.
    """

    def __init__(self, path: Path, learner: Learner, about: dict[str, Any], every_s: float) -> None:
        self.path, self.learner, self.every_s = path, learner, every_s
        self.about = json.loads(json.dumps(about))
        self._saved, self._saving_s = time.monotonic(), 0.0

    def restore(self) -> int:
        """Put the last state back; the step it was taken after, 0 if there is none.

        Raises:
            InputError: as `restore`, or if some process sees another file than others.
        """
        step, world = restore(self.path, self.learner, self.about), self.learner.world
        if int(world.sum(torch.tensor(step))) != step * world.size:
            raise InputError(
                f"{self.path}: not all processes see the same checkpoint; is it on shared storage?"
            )
        return step

    def after(self, step: int, came: int, *, save: bool = False) -> None:
        """Save if it is time or asked for, and before stopping, on which all processes agree.

        Raises:
            Stopped: if a signal came (its number, or 0), to any process.
        """
        world = self.learner.world
        stops = world.any(bool(came))
        begun = time.monotonic()
        due = begun - self._saved > max(self.every_s, self._saving_s / SAVING_SHARE)
        if world.main and (stops or save or due):
            write(self.path, self.learner, step, self.about)
            self._saved = time.monotonic()
            self._saving_s = self._saved - begun
        if stops:
            world.wait()
            raise Stopped(terminated=came != signal.SIGINT)


def write(path: Path, learner: Learner, step: int, about: dict[str, Any]) -> None:
    """Write the state after `step` steps, atomically; `about` says what job it belongs to."""
    tensors = {f"model.{name}": tensor for name, tensor in learner.model.state_dict().items()}
    if learner.average:
        tensors |= {f"average.{name}": t for name, t in learner.average.module.state_dict().items()}
    for index, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    save_tensors(path, tensors, {"step": step, "job": about, "scaler": learner.scaler.state_dict()})


def restore(path: Path, learner: Learner, about: dict[str, Any]) -> int:
    """Put a state back; the step it was taken after, 0 if there is no file.

    Raises:
        InputError: if the file belongs to another job or is damaged.
    """
    if not path.exists():
        return 0
    tensors, header = read_safetensors(path), read_about(path)
    if header.get("job") != about:
        raise InputError(
            f"{path}: belongs to a training with other settings; remove it or give another --out"
        )
    _fill(path, learner.model, _part(tensors, "model."))
    if learner.average:
        _fill(path, learner.average.module, _part(tensors, "average."))
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        states.setdefault(int(index), {})[key] = _laid_out(tensor, parameters[int(index)])
    learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": states})
    if scaler := header.get("scaler"):
        learner.scaler.load_state_dict(scaler)
    return int(header["step"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _fill(path: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: is of another network: {' '.join(str(error).split())}") from None


def _laid_out(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A state in its parameter's memory layout: AdamW's fused kernel walks both by address."""
    if tensor.shape != parameter.shape:
        return tensor  # the step count
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor).detach()
