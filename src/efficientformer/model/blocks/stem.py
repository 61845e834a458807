"""The stems, and the plain embedding between stages."""

from __future__ import annotations

from torch import Tensor, nn

from efficientformer.layers import Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.base import LayerModule, activation


class Stem(LayerModule):
    """Two 3×3 stride-2 convolutions, each with batch norm and an activation (ReLU; GELU in V2) [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        half = layer.out_width // 2
        self.conv1 = nn.Conv2d(layer.in_width, half, 3, 2, 1)
        self.norm1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, layer.out_width, 3, 2, 1)
        self.norm2 = nn.BatchNorm2d(layer.out_width)
        self.act = activation(layer.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, H/4, W/4)."""
        x = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(x)))

    def fold(self) -> nn.Module:
        """Batch norms into the convolutions."""
        first, second = melt.conv_bn(self.conv1, self.norm1), melt.conv_bn(self.conv2, self.norm2)
        return nn.Sequential(first, self.act, second, self.act)


class PatchStem(LayerModule):
    """One 4×4 convolution of stride 4 with batch norm and an activation: patches that do not overlap.

    The paper (§3.1, observation 1) finds such an embedding slow on phones; elsewhere it may be fast.
    """

    layout: Layout = "map"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_width, layer.out_width, 4, 4)
        self.norm = nn.BatchNorm2d(layer.out_width)
        self.act = activation(layer.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, H/4, W/4)."""
        return self.act(self.norm(self.conv(x)))

    def fold(self) -> nn.Module:
        """Batch norm into the convolution."""
        return nn.Sequential(melt.conv_bn(self.conv, self.norm), self.act)


class Embed(LayerModule):
    """The embedding between stages: one 3×3 stride-2 convolution with batch norm, no activation [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_width, layer.out_width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(layer.out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/2, W/2)."""
        return self.norm(self.conv(x))

    def fold(self) -> nn.Module:
        """Batch norm into the convolution."""
        return melt.conv_bn(self.conv, self.norm)
