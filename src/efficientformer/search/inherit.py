"""A sub-network with the supernet's weights: blocks taken by position and kind, channels by their rank.

Each weight is described once, by which width each of its axes follows; a narrowing takes the best channels of
every axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from efficientformer.architecture import Architecture
from efficientformer.layers import KINDS, Layer
from efficientformer.model.network import EfficientFormer
from efficientformer.search.supernet import Supernet

Axis = Literal["in", "out", "half", "hidden"] | None

_MLP: dict[str, tuple[Axis, ...]] = {
    "mlp.fc1.weight": ("hidden", "in"),
    "mlp.fc1.bias": ("hidden",),
    "mlp.norm1": ("hidden",),
    "mlp.fc2.weight": ("out", "hidden"),
}
_AXES: dict[str, dict[str, tuple[Axis, ...]]] = {
    "stem": {
        "conv1.weight": ("half",),
        "conv1.bias": ("half",),
        "norm1": ("half",),
        "conv2.weight": ("out", "half"),
    },
    "embed": {"conv.weight": ("out", "in")},
    "pool": _MLP,
    "attention": {
        **_MLP,
        "token_mixer.qkv.weight": (None, "in"),
        "token_mixer.qkv.bias": (None,),
        "token_mixer.attention_biases": (None, None),
        "token_mixer.proj.weight": ("out",),
    },
    "head": {
        "norm": ("in",),
        "classifier.weight": (None, "in"),
        "classifier.bias": (None,),
        "distillation.weight": (None, "in"),
        "distillation.bias": (None,),
    },
}
"""By kind of layer: the axes of each weight, or of all of a module's; what is not named follows `out`."""


@dataclass(frozen=True)
class Ranking:
    """Every narrowable width's channels, best first.

    Attributes:
        order: `stage.I`, `stem`, and `stages.I.blocks.P.KIND` for hidden widths, to channel indices.
    """

    order: Mapping[str, Tensor]

    def keep(self, key: str, count: int) -> Tensor:
        """The `count` best channels, in their own order."""
        return self.order[key][:count].sort().values

    @classmethod
    def of(cls, scores: Mapping[str, Tensor]) -> Ranking:
        """From a score per channel; ties go to the lower index."""
        return cls({key: score.argsort(descending=True, stable=True) for key, score in scores.items()})


def inherit(
    supernet: Supernet, architecture: Architecture, ranking: Ranking | None = None
) -> EfficientFormer:
    """Build a sub-network and fill it from the supernet.

    Args:
        supernet: where the weights are.
        architecture: of the supernet's space, its identities still in place; the network built has none left.
        ranking: which channels survive; needed where a stage is narrower than the supernet's.
    """
    network = EfficientFormer(architecture.compact())
    targets = network.named_modules_of_layers()
    with torch.no_grad():
        for (name, layer), (_, _, target) in zip(architecture.named_layers(), targets, strict=True):
            source = _source(supernet, name, layer)
            if source is None:
                continue  # a change of layout has no weights
            kept = _kept(name, layer, ranking or Ranking({}))
            tensors = source.state_dict()
            for key, tensor in target.state_dict().items():
                tensor.copy_(_select(tensors[key], _axes(layer.kind, key), kept))
    return network.eval()


def _source(supernet: Supernet, name: str, layer: Layer) -> nn.Module | None:
    match name.split("."):
        case ["stem"]:
            return supernet.stem
        case ["head"]:
            return supernet.head
        case ["stages", stage, "embed"]:
            return supernet.embed(int(stage))
        case ["stages", stage, "blocks", position]:
            return supernet.stage(int(stage))[int(position)][layer.kind]
    return None


def _kept(name: str, layer: Layer, ranking: Ranking) -> dict[Axis, Tensor]:
    """The surviving channels of each axis that can be narrowed."""
    widths = {"stem": ("", "stage.0"), "head": ("stage.3", "")}
    if layer.kind in widths:
        above, own = widths[layer.kind]
    else:
        stage = int(name.split(".")[1])
        own = f"stage.{stage}"
        above = f"stage.{stage - 1}" if layer.kind == "embed" else own
    wanted: list[tuple[Axis, str, int]] = [("in", above, layer.in_width), ("out", own, layer.out_width)]
    if layer.kind == "stem":
        wanted.append(("half", "stem", layer.out_width // 2))
    if KINDS[layer.kind].role == "block":
        wanted.append(("hidden", f"{name}.{layer.kind}", layer.expansion * layer.in_width))
    return {axis: ranking.keep(key, count) for axis, key, count in wanted if key in ranking.order}


def _axes(kind: str, key: str) -> tuple[Axis, ...]:
    axes = _AXES[kind]
    return axes.get(key) or axes.get(key.rpartition(".")[0]) or ("out",)


def _select(tensor: Tensor, axes: tuple[Axis, ...], kept: Mapping[Axis, Tensor]) -> Tensor:
    for dimension, axis in enumerate(axes[: tensor.ndim]):
        if axis in kept:
            tensor = tensor.index_select(dimension, kept[axis])
    return tensor
