"""An `Architecture` as one `nn.Module`, and the same network folded for deployment.

The network is nothing but its architecture's layers in order; `named_modules_of_layers` pairs the two.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from efficientformer.architecture import Architecture, Layer
from efficientformer.errors import InputError
from efficientformer.model.blocks import Embed, Flatten, Head, LayerModule, Stem, Unflatten, build_layer


class Stage(nn.Module):
    """The embedding into a stage (none into the first) and its blocks, by position."""

    def __init__(self, embed: nn.Module | None, blocks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleDict(blocks)


class EfficientFormer(nn.Module):
    """A network of the family, in the form that is trained.

    Args:
        architecture: what to build.
        layer_scale_init: LayerScale's start, 1e-5 in the authors' code.
    """

    def __init__(self, architecture: Architecture, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        self.architecture = architecture
        built = {
            name: build_layer(layer, layer_scale_init)
            for name, layer in architecture.named_layers()
            if layer.kind not in ("flatten", "unflatten")
        }
        self.stem = cast(Stem, built["stem"])
        self.stages = nn.ModuleList(self._stage(index, built) for index in range(4))
        self.head = cast(Head, built["head"])

    def _stage(self, index: int, built: Mapping[str, nn.Module]) -> Stage:
        prefix = f"stages.{index}.blocks."
        blocks = {name.removeprefix(prefix): m for name, m in built.items() if name.startswith(prefix)}
        return Stage(cast(Embed | None, built.get(f"stages.{index}.embed")), blocks)

    def named_modules_of_layers(self) -> Iterator[tuple[str, Layer, LayerModule]]:
        """(name, layer, module) in order of execution, as `architecture.named_layers()`."""
        for name, layer in self.architecture.named_layers():
            match layer.kind:
                case "flatten":
                    yield name, layer, Flatten()
                case "unflatten":
                    yield name, layer, Unflatten(layer)
                case _:
                    yield name, layer, cast(LayerModule, self.get_submodule(name))

    def forward_features(self, x: Tensor) -> Tensor:
        """Everything before the head: (B, 3, H, W) → tokens (B, H/32 · W/32, C4).

        Raises:
            InputError: if the image is not of the architecture's input size.
        """
        if tuple(x.shape[-2:]) != self.architecture.input_size:
            given, wanted = tuple(x.shape[-2:]), self.architecture.input_size
            raise InputError(f"images of {given} pixels given to a network built for {wanted}")
        for name, _, module in self.named_modules_of_layers():
            if name != "head":
                x = module(x)
        return x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) → logits (B, classes); in training with two heads, a pair of them."""
        return self.head(self.forward_features(x))


def fold(network: EfficientFormer) -> nn.Sequential:
    """The network's deployed form: equal outputs, far fewer operations. The network itself is left alone.

    Returns:
        its layers in order, one child per layer of the architecture, in evaluation mode.
    """
    source = copy.deepcopy(network).eval()
    with torch.no_grad():
        children = [module.fold() for _, _, module in source.named_modules_of_layers()]
    return nn.Sequential(*children).eval().requires_grad_(False)
