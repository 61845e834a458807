"""MetaBlock 3D (MB3D): the paper's attention block, trained and deployed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.layers import Attention, Layer, Layout
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.base import LayerModule, LayerScale, activation, truncated_normal
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
        self.token_mixer = AttentionMixer(width, (layer.height, layer.width), layer.attention or Attention())
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
        """Norm affines, the attention scale and LayerScale into the linears; the bias is looked up once."""
        mixer = self.token_mixer
        qkv = melt.scale_queries(melt.absorb_affine(self.norm1, mixer.qkv), mixer.shape)
        return FoldedAttentionBlock(
            mixer.shape,
            qkv,
            mixer.bias().detach().clone(),
            melt.scale_outputs(mixer.proj, self.ls1.gamma),
            melt.absorb_affine(self.norm2, self.mlp.fc1),
            self.mlp.act,
            melt.scale_outputs(self.mlp.fc2, self.ls2.gamma),
        )


def attend(qkv: Tensor, shape: Attention, bias: Tensor, scale: float | None = None) -> Tensor:
    """Attention's two products.

    Args:
        qkv: (B, N, heads · (2·key_dim + value_dim)), per head [query | key | value].
        shape: heads and dimensions.
        bias: (heads, N, N), added to the logits.
        scale: multiplies the queries; none where it is already in the projection.

    Returns:
        (B, N, heads · value_dim).
    """
    q, k, v = (
        qkv.unflatten(-1, (shape.heads, -1))
        .transpose(1, 2)
        .split((shape.key_dim, shape.key_dim, shape.value_dim), dim=-1)
    )
    if scale is not None:
        q = q * scale
    weights = (q @ k.transpose(-2, -1) + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class FoldedAttentionBlock(nn.Module):
    """MB3D deployed: four linears, two norms without affine, and a constant bias."""

    bias: Tensor

    def __init__(
        self,
        shape: Attention,
        qkv: nn.Linear,
        bias: Tensor,
        proj: nn.Linear,
        fc1: nn.Linear,
        act: nn.Module,
        fc2: nn.Linear,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.qkv, self.proj, self.fc1, self.act, self.fc2 = qkv, proj, fc1, act, fc2
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        x = x + self.proj(attend(self.qkv(normalise(x)), self.shape, self.bias))
        return x + self.fc2(self.act(self.fc1(normalise(x))))


def normalise(x: Tensor) -> Tensor:
    """LayerNorm over the last dimension without its affine; eps as in `nn.LayerNorm`."""
    return F.layer_norm(x, x.shape[-1:])
