"""A layer's weights, narrowed: which width each axis of each weight follows, described once.

Sub-networks inherit by it (`inherit.py`), and the supernet trains narrower widths by it (`run_narrow`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from efficientformer.layers import KINDS, Layer
from efficientformer.model.blocks import build_layer

Axis = Literal["in", "out", "half", "hidden"] | None
Kept = Mapping[Axis, Tensor]
"""The channels of each axis that are kept; an axis that is not named stays whole."""

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
    "stem_patch": {"conv.weight": ("out",)},
    "embed": {"conv.weight": ("out", "in")},
    "pool": _MLP,
    "ffn": {
        "mlp.fc1.conv.weight": ("hidden", "in"),
        "mlp.fc1.conv.bias": ("hidden",),
        "mlp.fc1.norm": ("hidden",),
        "mlp.mid.conv": ("hidden",),  # depthwise
        "mlp.mid.norm": ("hidden",),
        "mlp.fc2.conv.weight": ("out", "hidden"),
    },
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


def narrowed(tensor: Tensor, kind: str, key: str, kept: Kept) -> Tensor:
    """A weight of a kind of layer with only the kept channels of each axis; gradients flow back."""
    if not tensor.is_floating_point():
        return tensor  # indices and counters
    axes = _AXES[kind]
    found = axes.get(key) or axes.get(key.rpartition(".")[0]) or ("out",)
    for dimension, axis in enumerate(found[: tensor.ndim]):
        if axis in kept:
            tensor = tensor.index_select(dimension, kept[axis])
    return tensor


def kept_channels(name: str, layer: Layer, keep: Callable[[str, int], Tensor | None]) -> Kept:
    """The channels of each axis of a layer that are kept.

    Args:
        name: the layer's in its network, such as `stages.2.blocks.1`.
        layer: as narrow as it is to be.
        keep: told a width (`stage.I`, `stem`, or `stages.I.blocks.P.KIND` for a hidden width) and how many
            channels, which ones; None for all.
    """
    widths = {"stem": ("", "stage.0"), "head": ("stage.3", "")}
    if name in widths:
        above, own = widths[name]
    else:
        stage = int(name.split(".")[1])
        own = f"stage.{stage}"
        above = f"stage.{stage - 1}" if layer.kind == "embed" else own
    wanted: list[tuple[Axis, str, int]] = [("in", above, layer.in_width), ("out", own, layer.out_width)]
    if layer.kind == "stem":
        wanted.append(("half", "stem", layer.out_width // 2))
    if KINDS[layer.kind].role == "block":
        wanted.append(("hidden", f"{name}.{layer.kind}", layer.expansion * layer.in_width))
    found = {axis: keep(key, count) for axis, key, count in wanted if key}
    return {axis: channels for axis, channels in found.items() if channels is not None}


def run_narrow(module: nn.Module, name: str, layer: Layer, x: Tensor) -> Tensor:
    """A layer's output when it is as narrow as `layer` says: of every width its first channels.

    Args:
        module: of the full width; it learns through the weights taken from it.
        name: the layer's in its network.
        layer: as narrow as it is to be.
        x: in the layout the layer takes, as narrow.
    """
    kept = kept_channels(name, layer, lambda _, count: _first(count, x.device))
    tensors = {
        key: narrowed(tensor, layer.kind, key, kept)
        for part in (module.named_parameters(), module.named_buffers())
        for key, tensor in part
    }
    return functional_call(_skeleton(layer).train(module.training), tensors, (x,), strict=True)


def _first(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)


@functools.lru_cache(maxsize=4096)
def _skeleton(layer: Layer) -> nn.Module:
    """The layer's module without weights of its own."""
    with torch.device("meta"):
        return build_layer(layer)
