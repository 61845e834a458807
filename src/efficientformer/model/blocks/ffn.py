"""EfficientFormerV2's unified FFN block: 1×1, depthwise 3×3, 1×1; the depthwise convolution mixes tokens."""

from __future__ import annotations

from torch import Tensor, nn

from efficientformer.layers import Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.base import (
    ConvNorm,
    LayerModule,
    LayerScale,
    Residual,
    activation,
    truncated_normal,
)


class UnifiedFfn(nn.Module):
    """1×1, depthwise 3×3 and 1×1 convolutions with batch norm, activations after the first two [code]."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = ConvNorm(width, hidden)
        self.mid = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.fc2 = ConvNorm(hidden, width)
        self.act = activation(act)
        truncated_normal(self.fc1.conv, self.fc2.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.fc2(self.act(self.mid(self.act(self.fc1(x)))))

    def fold(self, gamma: Tensor) -> Residual:
        """Three convolutions and the activations between, scaled by `gamma`, on a residual path."""
        last = melt.scale_outputs(self.fc2.fold(), gamma)
        return Residual(self.fc1.fold(), self.act, self.mid.fold(), self.act, last)


class FfnBlock(LayerModule):
    """The unified FFN with LayerScale on a residual path [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        width = layer.in_width
        self.mlp = UnifiedFfn(width, layer.expansion * width, layer.activation)
        self.ls2 = LayerScale(width, "map", layer_scale_init)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return x + self.drop_path(self.ls2(self.mlp(x)))

    def fold(self) -> nn.Module:
        """Three convolutions and a sum."""
        return self.mlp.fold(self.ls2.gamma)
