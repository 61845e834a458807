"""MetaBlock 3D (MB3D): the paper's attention block, trained and deployed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.layers import Attention, Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.base import LayerModule, LayerScale, Residual, activation, truncated_normal
from efficientformer.model.blocks.bias import BiasTable


class AttentionMixer(BiasTable):
    """Multi-head self-attention with a bias per head and offset, LeViT's [code].

    `qkv` is laid out per head as [query | key | value].
    """

    def __init__(self, width: int, grid: tuple[int, int], shape: Attention) -> None:
        super().__init__(shape.heads, grid)
        self.shape = shape
        self.qkv = nn.Linear(width, shape.qkv_width)
        self.proj = nn.Linear(shape.value_width, width)
        truncated_normal(self.qkv, self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        return self.proj(attend(self.qkv(x), self.shape, self.bias(), self.shape.key_dim**-0.5))


class LinearMlp(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)
        truncated_normal(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        return self.fc2(self.act(self.fc1(x)))


class AttentionBlock(LayerModule):
    """Pre-norm self-attention, then a pre-norm MLP, each with LayerScale [code]."""

    layout: Layout = "tokens"

    def __init__(self, layer: Layer, layer_scale_init: float = 1e-5) -> None:
        super().__init__()
        width = layer.in_width
        self.norm1 = nn.LayerNorm(width)
        self.token_mixer = AttentionMixer(width, (layer.height, layer.width), layer.attention_shape)
        self.ls1 = LayerScale(width, "tokens", layer_scale_init)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = LinearMlp(width, layer.expansion * width, layer.activation)
        self.ls2 = LayerScale(width, "tokens", layer_scale_init)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        x = x + self.drop_path(self.ls1(self.token_mixer(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def fold(self) -> nn.Module:
        """On maps: linears as 1×1 convolutions, with norm affines, attention scale and LayerScale in them."""
        mixer = self.token_mixer
        qkv = melt.scale_queries(melt.absorb_affine(self.norm1, mixer.qkv), mixer.shape)
        proj = melt.scale_outputs(mixer.proj, self.ls1.gamma)
        fc1 = melt.absorb_affine(self.norm2, self.mlp.fc1)
        fc2 = melt.scale_outputs(self.mlp.fc2, self.ls2.gamma)
        products = Attend(mixer.shape, mixer.bias().detach().clone())
        qkv, proj, fc1, fc2 = map(melt.as_convolution, (qkv, proj, fc1, fc2))
        return nn.Sequential(
            Residual(Normalise(), qkv, products, proj), Residual(Normalise(), fc1, self.mlp.act, fc2)
        )


def attend(qkv: Tensor, shape: Attention, bias: Tensor, scale: float) -> Tensor:
    """Attention's two products.

    Args:
        qkv: (B, N, heads · (2·key_dim + value_dim)), per head [query | key | value].
        shape: heads and dimensions.
        bias: (heads, N, N), added to the logits.
        scale: multiplies the queries.

    Returns:
        (B, N, heads · value_dim).
    """
    q, k, v = (
        qkv.unflatten(-1, (shape.heads, -1))
        .transpose(1, 2)
        .split((shape.key_dim, shape.key_dim, shape.value_dim), dim=-1)
    )
    weights = (q * scale @ k.transpose(-2, -1) + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Attend(nn.Module):
    """Attention deployed, on the map: two products and a softmax, with a constant bias.

    Queries, keys and values are (B, heads, D, N) as a convolution leaves them: no head is transposed.
    """

    bias: Tensor

    def __init__(self, shape: Attention, bias: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("bias", bias)

    def forward(self, qkv: Tensor) -> Tensor:
        """(B, heads · (2·key_dim + value_dim), H, W) → (B, heads · value_dim, H, W)."""
        sizes = (self.shape.key_dim, self.shape.key_dim, self.shape.value_dim)
        q, k, v = split_heads(qkv, self.shape.heads).split(sizes, dim=2)
        weights = (q.transpose(-2, -1) @ k + self.bias).softmax(-1)
        return merge_heads(v @ weights.transpose(-2, -1), (qkv.shape[2], qkv.shape[3]))


class Normalise(nn.Module):
    """`normalise` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return normalise(x)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, heads · D, H, W) → (B, heads, D, H·W)."""
    return x.flatten(2).unflatten(1, (heads, -1))


def merge_heads(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, heads, D, H·W) → (B, heads · D, H, W)."""
    return x.flatten(1, 2).unflatten(2, grid)


def normalise(x: Tensor) -> Tensor:
    """LayerNorm over the channels of a map without its affine; eps as in `nn.LayerNorm`."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)
