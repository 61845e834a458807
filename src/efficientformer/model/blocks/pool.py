"""MetaBlock 4D (MB4D): the paper's pooling block, trained and deployed."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from efficientformer.layers import Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.base import LayerModule, LayerScale, Residual, activation, truncated_normal


class ConvMlp(nn.Module):
    """1×1 convolution, batch norm, activation, 1×1 convolution, batch norm."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.act = activation(act)
        self.fc2 = nn.Conv2d(hidden, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        truncated_normal(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))


class PoolBlock(LayerModule):
    """A pooling token mixer, then a convolutional MLP, each with LayerScale [code].

    The mixer is `pool(x) − x` as in the authors' code; the paper's Eq. 3 has `pool(x)`.
    """

    layout: Layout = "map"

    def __init__(self, layer: Layer, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        width = layer.in_width
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.ls1 = LayerScale(width, "map", layer_scale_init)
        self.mlp = ConvMlp(width, layer.expansion * width, layer.activation)
        self.ls2 = LayerScale(width, "map", layer_scale_init)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        x = x + self.drop_path(self.ls1(self.pool(x) - x))
        return x + self.drop_path(self.ls2(self.mlp(x)))

    def fold(self) -> nn.Module:
        """LayerScale and batch norms into the two convolutions; the mixer becomes a weighted mean."""
        first = melt.conv_bn(self.mlp.fc1, self.mlp.norm1)
        second = melt.scale_outputs(melt.conv_bn(self.mlp.fc2, self.mlp.norm2), self.ls2.gamma)
        return FoldedPoolBlock(WeightedPool(self.ls1.gamma), Residual(first, self.mlp.act, second))


class FoldedPoolBlock(nn.Module):
    """MB4D deployed: the mixer, then two convolutions and the activation on a residual path."""

    def __init__(self, mixer: nn.Module, mlp: Residual) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.mlp(self.mixer(x))


class WeightedPool(nn.Module):
    """The mixer deployed: (1 − γ)·x + γ·pool(x)."""

    keep: Tensor
    mix: Tensor

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.register_buffer("mix", gamma.detach().clone()[:, None, None])
        self.register_buffer("keep", 1 - self.mix)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return x * self.keep + self.pool(x) * self.mix


class RescaledPool(nn.Module):
    """The mixer on a rescaled stream: x̂ + ρ·pool(x̂)."""

    ratio: Tensor

    def __init__(self, ratio: Tensor) -> None:
        super().__init__()
        self.register_buffer("ratio", ratio)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return torch.addcmul(x, self.pool(x), self.ratio)


def rescaled(block: FoldedPoolBlock, scale: Tensor) -> tuple[FoldedPoolBlock, Tensor]:
    """A folded block on a stream divided by `scale`, one factor a channel; and the scale of what it gives.

    With x = s·x̂, (1 − γ)·x + γ·pool(x) = s'·(x̂ + ρ·pool(x̂)), where s' = (1 − γ)·s and ρ = γ / (1 − γ), as the
    mean is linear and works channel by channel. The MLP's inputs take s' in, its outputs are divided by it.
    """
    mixer = cast(WeightedPool, block.mixer)
    leaves = scale * mixer.keep.flatten()
    first, act, second = block.mlp.path
    first = melt.scale_inputs(cast(nn.Conv2d, first), leaves)
    second = melt.scale_outputs(cast(nn.Conv2d, second), 1 / leaves)
    return FoldedPoolBlock(RescaledPool(mixer.mix / mixer.keep), Residual(first, act, second)), leaves
