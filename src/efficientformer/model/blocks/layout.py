"""The two changes of layout. They have no weights and are their own deployed form."""

from __future__ import annotations

from torch import Tensor, nn

from efficientformer.layers import Layer, Layout
from efficientformer.model.blocks.base import LayerModule


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H·W, C) → (B, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, grid)


class Flatten(LayerModule):
    """The change of layout before attention."""

    layout: Layout = "map"

    def __init__(self, _: Layer | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H·W, C)."""
        return as_tokens(x)

    def fold(self) -> nn.Module:
        """Itself."""
        return self


class Unflatten(LayerModule):
    """The change of layout after attention."""

    layout: Layout = "tokens"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.grid = (layer.height, layer.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H·W, C) → (B, C, H, W)."""
        return as_map(x, self.grid)

    def fold(self) -> nn.Module:
        """Itself."""
        return self
