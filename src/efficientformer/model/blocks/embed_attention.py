"""EfficientFormerV2's embedding into stage 4: attention whose queries stand on every second position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficientformer.layers import Attention, Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.attention import merge_heads, split_heads
from efficientformer.model.blocks.base import ConvNorm, LayerModule, activation
from efficientformer.model.blocks.bias import BiasTable


class LocalQuery(nn.Module):
    """Queries on every second position, a depthwise stride-2 convolution of its neighbours added [code]."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, width, 3, 2, 1, groups=width)
        self.proj = ConvNorm(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, heads · key_dim, H/2, W/2)."""
        return self.proj(self.local(x) + x[:, :, ::2, ::2])

    def fold(self, scale: float) -> nn.Sequential:
        """Two convolutions; a query's own position becomes the centre tap of the first."""
        proj = self.proj.fold()
        factor = proj.weight.new_full((1,), scale)
        return nn.Sequential(melt.add_centre(self.local, 1.0), melt.scale_outputs(proj, factor))


class AttentionDownsample(BiasTable):
    """Attention from a map to the map of half the resolution [code]."""

    def __init__(self, layer: Layer) -> None:
        shape, grid = layer.attention_shape, (layer.height, layer.width)
        super().__init__(shape.heads, grid, query_stride=2)
        self.shape, width = shape, layer.in_width
        self.q = LocalQuery(width, shape.key_width)
        self.k = ConvNorm(width, shape.key_width)
        self.v = ConvNorm(width, shape.value_width)
        self.v_local = ConvNorm(shape.value_width, shape.value_width, 3, 2, shape.value_width)
        self.act = activation(layer.activation)
        self.proj = ConvNorm(shape.value_width, layer.out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/2, W/2)."""
        query, values = self.q(x), self.v(x)
        q, k, v = (split_heads(part, self.shape.heads) for part in (query, self.k(x), values))
        weights = (q.transpose(-2, -1) @ k * self.shape.key_dim**-0.5 + self.bias()).softmax(-1)
        mixed = merge_heads(v @ weights.transpose(-2, -1), (query.shape[2], query.shape[3]))
        return self.proj(self.act(mixed + self.v_local(values)))


class EmbedAttention(LayerModule):
    """The attending down-sampling beside a 3×3 stride-2 convolution with batch norm; their sum [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.attn = AttentionDownsample(layer)
        self.conv = nn.Conv2d(layer.in_width, layer.out_width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(layer.out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/2, W/2)."""
        return self.attn(x) + self.norm(self.conv(x))

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """Norms into the convolutions; keys and values by one; the bias is looked up once."""
        attn = self.attn
        return FoldedEmbedAttention(
            attn.shape,
            attn.q.fold(attn.shape.key_dim**-0.5),
            melt.join_outputs([attn.k.fold(), attn.v.fold()]),
            attn.v_local.fold(),
            attn.bias().clone(),
            nn.Sequential(attn.act, attn.proj.fold()),
            melt.conv_bn(self.conv, self.norm),
        )


class FoldedEmbedAttention(nn.Module):
    """`EmbedAttention` deployed."""

    bias: Tensor

    def __init__(
        self,
        shape: Attention,
        query: nn.Module,
        key_value: nn.Conv2d,
        local: nn.Conv2d,
        bias: Tensor,
        out: nn.Module,
        conv: nn.Conv2d,
    ) -> None:
        super().__init__()
        self.shape, self.query, self.key_value = shape, query, key_value
        self.local, self.out, self.conv = local, out, conv
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/2, W/2)."""
        query = self.query(x)
        parts = query, *self.key_value(x).split((self.shape.key_width, self.shape.value_width), dim=1)
        q, k, v = (split_heads(part, self.shape.heads) for part in parts)
        weights = (q.transpose(-2, -1) @ k + self.bias).softmax(-1)
        mixed = merge_heads(v @ weights.transpose(-2, -1), (query.shape[2], query.shape[3]))
        return self.out(mixed + self.local(parts[2])) + self.conv(x)
