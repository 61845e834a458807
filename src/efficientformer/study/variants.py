"""The modules that the study times, in the form they are deployed in: the two of a pair differ in one thing.

Each function makes a module for maps (B, C, H, W), but for `linear`, which takes tokens (B, 1, N, C). Weights
are random and the same each time; norms and LayerScales are drawn away from 0 and 1 (`latency/untrained.py`),
so that no converter can leave a branch out. Where two variants are to compute the same, they do, to rounding:
the tests compare them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.architecture import BLOCK_ATTENTION
from efficientformer.latency.untrained import deployed_layer, randomise_vectors, untrained
from efficientformer.layers import Layer
from efficientformer.model.blocks.attention import Attend, Normalise, attend, merge_heads, split_heads
from efficientformer.model.blocks.base import ConvNorm, Residual, activation
from efficientformer.model.blocks.layout import as_map, as_tokens
from efficientformer.model.blocks.pool import FoldedPoolBlock
from efficientformer.model.deploy import fold
from efficientformer.presets import PRESETS


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module with random weights, the same each time, its norms away from 0 and 1, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().eval()
        randomise_vectors(module)
    return module


# 1: patch embeddings


def patches(width: int, kernel: int, stride: int, padding: int = 0) -> nn.Module:
    """One convolution with a large kernel: (B, 3, H, W) → (B, width, H/stride, W/stride)."""
    return seeded(lambda: nn.Conv2d(3, width, kernel, stride, padding))


def stack(*widths: int) -> nn.Module:
    """3×3 convolutions of stride 2, each with a bias (its batch norm folded), ReLU between them."""

    def make() -> nn.Module:
        convolutions = [nn.Conv2d(i, o, 3, 2, 1) for i, o in itertools.pairwise((3, *widths))]
        between = [part for one in convolutions for part in (one, nn.ReLU())]
        return nn.Sequential(*between[:-1])

    return seeded(make)


# 2: layouts and attention


class TokenMlp(nn.Module):
    """The MLP of a deployed block with its 1×1 convolutions as linears: (B, N, C) → the same."""

    def __init__(self, mlp: Residual) -> None:
        super().__init__()
        first, act, second = mlp.path
        self.fc1, self.act, self.fc2 = as_linear(first), act, as_linear(second)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        return x + self.fc2(self.act(self.fc1(x)))


class ThroughTokens(nn.Module):
    """Changes the layout, runs modules on tokens, and changes it back."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return as_map(self.inner(as_tokens(x)), (x.shape[2], x.shape[3]))


def as_linear(conv: nn.Module) -> nn.Linear:
    """The linear that is a 1×1 convolution at every position."""
    conv = cast(nn.Conv2d, conv)
    linear = nn.Linear(conv.in_channels, conv.out_channels)
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1).clone())
    linear.bias = nn.Parameter(cast(Tensor, conv.bias).detach().clone())
    return linear


def pool_block(width: int, side: int, expansion: int = 4) -> nn.Module:
    """The paper's pooling block (MB4D)."""
    return deployed_layer(Layer("pool", width, width, side, side, expansion, "gelu"))


def attention_block(width: int, side: int) -> nn.Module:
    """The paper's attention block (MB3D), which deployed works on maps and transposes no head."""
    return deployed_layer(Layer("attention", width, width, side, side, 4, "gelu", BLOCK_ATTENTION))


def pool_stage(width: int, side: int, blocks: int, *, reshaping: bool = False) -> nn.Module:
    """Pooling blocks; `reshaping` runs each MLP on tokens, so that each block changes the layout twice."""
    stage = nn.Sequential(*(pool_block(width, side) for _ in range(blocks)))
    return reshaped(stage) if reshaping else stage


def reshaped(network: nn.Module) -> nn.Module:
    """A deployed network with the MLP of every pooling block on tokens, in place."""
    return _with_mlps(network, lambda mlp: ThroughTokens(TokenMlp(mlp)))


def _with_mlps(network: nn.Module, change: Callable[[Residual], nn.Module]) -> nn.Module:
    for block in network.modules():
        if isinstance(block, FoldedPoolBlock):
            block.mlp = cast(Residual, change(block.mlp))
    return network


def mlps(width: int, side: int, count: int, layout: str = "maps") -> nn.Module:
    """MLPs alone, one after another, on `maps`, on `tokens`, or `alternating` between the two as in LeViT."""
    blocks = [cast(FoldedPoolBlock, pool_block(width, side)).mlp for _ in range(count)]
    match layout:
        case "maps":
            return nn.Sequential(*blocks).eval()
        case "tokens":
            return ThroughTokens(*map(TokenMlp, blocks)).eval()
        case "alternating":
            turns = (ThroughTokens(TokenMlp(one)) if i % 2 else one for i, one in enumerate(blocks))
            return nn.Sequential(*turns).eval()
    raise ValueError(f"no layout {layout!r}")


class TokenAttend(Attend):
    """`Attend` by way of tokens: the map is reshaped and every head transposed, as the authors' code does."""

    def forward(self, qkv: Tensor) -> Tensor:
        """(B, heads · (2·key_dim + value_dim), H, W) → (B, heads · value_dim, H, W)."""
        mixed = attend(as_tokens(qkv), self.shape, self.bias, 1.0)
        return as_map(mixed, (qkv.shape[2], qkv.shape[3]))


class NoAttend(Attend):
    """What is left of attention without its products and softmax: each position sees only itself."""

    def forward(self, qkv: Tensor) -> Tensor:
        """(B, heads · (2·key_dim + value_dim), H, W) → (B, heads · value_dim, H, W)."""
        sizes = (self.shape.key_dim, self.shape.key_dim, self.shape.value_dim)
        q, k, v = split_heads(qkv, self.shape.heads).split(sizes, dim=2)
        return merge_heads(v + (q * k).sum(2, keepdim=True), (qkv.shape[2], qkv.shape[3]))


class TokenMixer(nn.Module):
    """Attention with its norm and projections on tokens, as in the authors' code: (B, N, C) → the same."""

    bias: Tensor

    def __init__(self, qkv: nn.Linear, products: Attend, proj: nn.Linear) -> None:
        super().__init__()
        self.qkv, self.proj, self.shape = qkv, proj, products.shape
        self.register_buffer("bias", products.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → the same."""
        qkv = self.qkv(F.layer_norm(x, x.shape[2:]))
        return x + self.proj(attend(qkv, self.shape, self.bias, 1.0))


def mixer(width: int, side: int, form: str = "map") -> nn.Module:
    """Attention with its norm and projections, without the MLP.

    Args:
        width: channels.
        side: of the map.
        form: `map` (no transposes), `reshaped` (tokens around the products), `tokens` (tokens from the norm
            to the projection), `without` (no products).
    """
    half = cast(Residual, cast(nn.Sequential, attention_block(width, side))[0])
    norm, qkv, products, proj = half.path
    products = cast(Attend, products)
    match form:
        case "map":
            made: nn.Module = Residual(norm, qkv, products, proj)
        case "reshaped":
            made = Residual(norm, qkv, TokenAttend(products.shape, products.bias), proj)
        case "tokens":
            made = ThroughTokens(TokenMixer(as_linear(qkv), products, as_linear(proj)))
        case "without":
            made = Residual(norm, qkv, NoAttend(products.shape, torch.zeros(0)), proj)
        case _:
            raise ValueError(f"no form {form!r}")
    return made.eval()


# 3: norms


def conv_norm(width: int, hidden: int) -> nn.Module:
    """1×1 convolution and batch norm, folded into one convolution as they are deployed."""
    return cast(ConvNorm, seeded(lambda: ConvNorm(width, hidden))).fold()


def norm_conv(width: int, hidden: int, norm: str) -> nn.Module:
    """A `layer` or `group` norm on the map, then a 1×1 convolution that has taken its scale and shift in."""
    return seeded(lambda: nn.Sequential(_map_norm(norm, width), nn.Conv2d(width, hidden, 1)))


def linear(width: int, hidden: int, *, normed: bool) -> nn.Module:
    """A linear on tokens (B, 1, N, C), behind a LayerNorm whose scale and shift it has taken in, or alone."""
    norm = [nn.LayerNorm(width, elementwise_affine=False)] if normed else []
    return seeded(lambda: nn.Sequential(*norm, nn.Linear(width, hidden)))


def _map_norm(norm: str, width: int) -> nn.Module:
    return Normalise() if norm == "layer" else nn.GroupNorm(1, width, affine=False)


# 4: activations


def activated(width: int, act: str) -> nn.Module:
    """An MLP of expansion 4 on a map with that activation."""
    return seeded(
        lambda: nn.Sequential(nn.Conv2d(width, 4 * width, 1), activation(act), nn.Conv2d(4 * width, width, 1))
    )


# Inside the whole network


def l1(act: str = "gelu") -> nn.Module:
    """EfficientFormer-L1 with that activation in its MLPs, deployed."""
    return fold(untrained(dataclasses.replace(PRESETS["efficientformer_l1"], activation=act)))


def l1_reshaped() -> nn.Module:
    """L1 with the MLP of every pooling block on tokens."""
    return reshaped(l1())


def l1_normed(norm: str) -> nn.Module:
    """L1 with a `layer` or `group` norm before the MLP of every pooling block; its batch norms are gone."""

    def change(mlp: Residual) -> nn.Module:
        first, act, second = mlp.path
        return Residual(_map_norm(norm, cast(nn.Conv2d, first).in_channels), first, act, second)

    return _with_mlps(l1(), change).eval()
