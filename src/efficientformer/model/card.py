"""The model card: what a network is and costs, counted here, and what was published of its accuracy.

efficientformer models
python -c "import efficientformer as ef; print(ef.model_card('efficientformer_l1'))"
"""

from __future__ import annotations

import dataclasses
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.layers import Macs
from efficientformer.model.deploy import fold
from efficientformer.model.network import EfficientFormer, both_sides
from efficientformer.model.pretrained import WEIGHTS, Published
from efficientformer.presets import PRESETS


@dataclass(frozen=True)
class ModelCard:
    """A network in figures.

    Attributes:
        name: of the preset.
        architecture: as a line.
        input_size: (height, width) in pixels.
        params: learned parameters, both classifiers.
        macs: for one image at that size; the sum, and by operator.
        inference_bytes: most activations alive at once for one float32 image: deployed form, eager PyTorch.
        training_bytes: activations kept for the gradient of one float32 image.
        published: weights by tag, with their ImageNet-1K top-1 in percent and its source.
    """

    name: str
    architecture: str
    input_size: tuple[int, int]
    params: int
    macs: Macs
    inference_bytes: int
    training_bytes: int
    published: dict[str, Published]

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        fields = dataclasses.asdict(self)
        by_operator = fields.pop("macs")
        return {
            "model": fields.pop("name"),
            **fields,
            "macs": self.macs.total,
            "macs_by_operator": by_operator,
        }


def model_card(name: str, input_size: int | tuple[int, int] = 224) -> ModelCard:
    """A preset's card. Nothing is computed but shapes; no weights are needed.

    Raises:
        InputError: for an unknown name, or an input size that does not divide.
    """
    preset, size = name.partition(".")[0], both_sides(input_size)
    if preset not in PRESETS:
        raise InputError(f"unknown model {name!r}; known: {', '.join(PRESETS)}")
    architecture = dataclasses.replace(PRESETS[preset], input_size=size)
    return ModelCard(
        name,
        str(architecture),
        size,
        architecture.params,
        architecture.macs_by_operator,
        inference_bytes(architecture),
        training_bytes(architecture),
        WEIGHTS.get(preset, {}),
    )


def inference_bytes(architecture: Architecture) -> int:
    """The greatest sum of activations alive at once while the deployed form takes one image."""
    with torch.device("meta"), torch.no_grad():
        deployed = fold(EfficientFormer(architecture))
        image = torch.empty(1, architecture.in_channels, *architecture.input_size)
        with _LiveActivations(deployed) as live:
            deployed(image)
    return live.peak + image.nbytes


def training_bytes(architecture: Architecture) -> int:
    """The activations that autograd keeps for the gradient of one image."""
    with torch.device("meta"):
        network = EfficientFormer(architecture).train()
        image = torch.empty(1, architecture.in_channels, *architecture.input_size)
    own = _storages(network)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(image)
        bytes_kept = sum(storage.nbytes() for storage in kept.values())
        del output
    return bytes_kept


class _LiveActivations(TorchDispatchMode):
    """While it is entered: the most bytes at once of tensors that operators made and nobody freed yet."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._seen = _storages(module)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size


def _storages(module: nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage()._cdata for tensor in tensors}
