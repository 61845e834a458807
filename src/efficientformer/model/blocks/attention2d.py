"""EfficientFormerV2's attention on the map: talking heads, a depthwise local branch on the values."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from efficientformer.layers import KINDS, Attention, Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.attention import merge_heads, split_heads
from efficientformer.model.blocks.base import ConvNorm, LayerModule, LayerScale, Residual, activation
from efficientformer.model.blocks.bias import BiasTable, Grid
from efficientformer.model.blocks.ffn import UnifiedFfn


class Attention2d(BiasTable):
    """Attention over the positions of a map, at half its resolution if the layer is strided [code].

    Heads are mixed before and after the softmax (talking heads); a depthwise convolution of the values is
    added to what they attend to.
    """

    def __init__(self, layer: Layer) -> None:
        shape, grid = layer.attention_shape, cast(Grid, layer.bias_grid)
        super().__init__(shape.heads, grid)
        width, strided = layer.in_width, KINDS[layer.kind].key_stride == 2
        self.shape = shape
        self.stride_conv = ConvNorm(width, width, 3, 2, width) if strided else nn.Identity()
        self.q = ConvNorm(width, shape.key_width)
        self.k = ConvNorm(width, shape.key_width)
        self.v = ConvNorm(width, shape.value_width)
        self.v_local = ConvNorm(shape.value_width, shape.value_width, 3, groups=shape.value_width)
        self.talking_head1 = nn.Conv2d(shape.heads, shape.heads, 1)
        self.talking_head2 = nn.Conv2d(shape.heads, shape.heads, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear") if strided else nn.Identity()
        self.act = activation(layer.activation)
        self.proj = ConvNorm(shape.value_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        x = self.stride_conv(x)
        values, heads = self.v(x), self.shape.heads
        q, k, v = (split_heads(part, heads) for part in (self.q(x), self.k(x), values))
        logits = q.transpose(-2, -1) @ k * self.shape.key_dim**-0.5 + self.bias()
        weights = self.talking_head2(self.talking_head1(logits).softmax(-1))
        x = merge_heads(v @ weights.transpose(-2, -1), (x.shape[2], x.shape[3])) + self.v_local(values)
        return self.proj(self.act(self.up(x)))

    @torch.no_grad()
    def fold(self, gamma: Tensor) -> nn.Module:
        """One convolution for queries, keys and values; bias and first talking head mixed beforehand."""
        scale = self.shape.key_dim**-0.5
        query = self.q.fold()
        qkv = melt.join_outputs(
            [melt.scale_outputs(query, query.weight.new_full((1,), scale)), self.k.fold(), self.v.fold()]
        )
        mix = self.talking_head1.weight[:, :, 0, 0]
        bias = torch.einsum("gh,hqk->gqk", mix, self.bias()) + melt.bias_of(self.talking_head1)[:, None, None]
        return FoldedAttention2d(
            self.shape,
            self.stride_conv.fold() if isinstance(self.stride_conv, ConvNorm) else self.stride_conv,
            qkv,
            self.v_local.fold(),
            melt.without_bias(self.talking_head1),
            bias,
            self.talking_head2,
            nn.Sequential(self.up, self.act, melt.scale_outputs(self.proj.fold(), gamma)),
        )


class FoldedAttention2d(nn.Module):
    """`Attention2d` deployed: convolutions, two products, a softmax and a constant bias."""

    bias: Tensor

    def __init__(
        self,
        shape: Attention,
        stride: nn.Module,
        qkv: nn.Conv2d,
        local: nn.Conv2d,
        head1: nn.Conv2d,
        bias: Tensor,
        head2: nn.Conv2d,
        out: nn.Module,
    ) -> None:
        super().__init__()
        self.shape, self.stride, self.qkv, self.local = shape, stride, qkv, local
        self.head1, self.head2, self.out = head1, head2, out
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        shape, x = self.shape, self.stride(x)
        parts = self.qkv(x).split((shape.key_width, shape.key_width, shape.value_width), dim=1)
        q, k, v = (split_heads(part, shape.heads) for part in parts)
        weights = self.head2((self.head1(q.transpose(-2, -1) @ k) + self.bias).softmax(-1))
        mixed = merge_heads(v @ weights.transpose(-2, -1), (x.shape[2], x.shape[3]))
        return self.out(mixed + self.local(parts[2]))


class Attention2dBlock(LayerModule):
    """Attention on the map, then the unified FFN, each with LayerScale on a residual path [code]."""

    layout: Layout = "map"

    def __init__(self, layer: Layer, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        width = layer.in_width
        self.token_mixer = Attention2d(layer)
        self.ls1 = LayerScale(width, "map", layer_scale_init)
        self.mlp = UnifiedFfn(width, layer.expansion * width, layer.activation)
        self.ls2 = LayerScale(width, "map", layer_scale_init)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        x = x + self.drop_path(self.ls1(self.token_mixer(x)))
        return x + self.drop_path(self.ls2(self.mlp(x)))

    def fold(self) -> nn.Module:
        """Both parts folded."""
        mixer = Residual(self.token_mixer.fold(self.ls1.gamma))
        return nn.Sequential(mixer, self.mlp.fold(self.ls2.gamma))
