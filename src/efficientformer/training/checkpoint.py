"""Where a training stands, in one safetensors file: weights, optimiser, step. Atomic, never pickled.

Data order, augmentation and noise are functions of (seed, step), so no generator's state has to be kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from efficientformer.errors import InputError
from efficientformer.model.weights import read_about, read_safetensors, save_tensors


def save(path: Path, model: nn.Module, optimizer: Optimizer, step: int, about: dict[str, Any]) -> None:
    """Write the state after `step` steps; `about` says what job it belongs to."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    save_tensors(path, tensors, {"step": step, "job": about})


def restore(path: Path, model: nn.Module, optimizer: Optimizer, about: dict[str, Any]) -> int:
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
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: is of another network: {' '.join(str(error).split())}") from None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = _laid_out(tensor, parameters[int(index)])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return int(header["step"])


def _laid_out(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A state in its parameter's memory layout: AdamW's fused kernel walks both by address."""
    if tensor.shape != parameter.shape:
        return tensor  # the step count
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor).detach()
