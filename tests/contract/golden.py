"""Stored outputs and stored starts of every preset, so that a silent change of either shows.

    python -m tests.contract.golden  # writes golden.json anew; say in the commit why the numbers changed

"outputs" are of the weights that `models.enliven` draws: the first logits of two images, the mean and spread
of all, and of the norms' statistics, which came out of the network as well. "start" is what the seed gives.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from efficientformer import EfficientFormer, create_model
from tests.contract.models import NAMES, Size, enliven, images, label

FILE = Path(__file__).with_name("golden.json")
SIZES: tuple[Size, ...] = ((64, 64), (64, 96))
SEED = 0
FIRST = 8
Numbers = dict[str, list[float]]


def _numbers(tensor: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in tensor.double().flatten().tolist()]


def _spread(tensors: list[Tensor]) -> Tensor:
    joined = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    return torch.stack([joined.mean(), joined.std()])


@torch.no_grad()
def outputs(name: str, size: Size) -> Numbers:
    """Of an enlivened network in evaluation."""
    model = create_model(name, input_size=size)
    enliven(model)
    logits = model(images(size, 2))
    buffers = dict(model.named_buffers())
    return {
        "logits": _numbers(logits[:, :FIRST]),
        "spread": _numbers(_spread([logits])),
        "means": _numbers(_spread([b for key, b in buffers.items() if key.endswith("running_mean")])),
        "variances": _numbers(_spread([b for key, b in buffers.items() if key.endswith("running_var")])),
    }


def start(name: str) -> Numbers:
    """The first weights that the seed gives to a part, and the mean and spread of all of them."""
    torch.manual_seed(SEED)
    model: EfficientFormer = create_model(name)
    last = [key for key, parameter in model.named_parameters() if parameter.ndim > 1][-3]
    parts = ("stem.conv1.weight", "stages.1.embed.conv.weight", last, "head.distillation.weight")
    picked = {key: _numbers(model.get_parameter(key).detach().flatten()[:FIRST]) for key in parts}
    return picked | {"spread": _numbers(_spread(list(model.parameters())))}


def document() -> dict[str, dict[str, dict[str, list[float]] | dict[str, Numbers]]]:
    """All that the file holds."""
    sizes = {label(size): size for size in SIZES}
    return {
        name: {
            "outputs": {str(key): outputs(name, size) for key, size in sizes.items()},
            "start": start(name),
        }
        for name in NAMES
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = json.dumps(document(), indent=1)
    FILE.write_text(re.sub(r"\[[^]]*]", lambda row: f"[{' '.join(row[0][1:-1].split())}]", text) + "\n")
