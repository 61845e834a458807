"""The deployed form: what can be melted into neighbouring weights is.

Batch norm, LayerScale, LayerNorm's affine, the attention scale and the two heads disappear into the
convolutions and linears beside them, and the attention bias is looked up once. Nothing here is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.architecture import Attention

Affine = TypeVar("Affine", nn.Conv2d, nn.Linear)


def conv_bn(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that equals `norm(conv(x))` in evaluation."""
    return torch.nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm.eval())


def scale_outputs(module: Affine, factor: Tensor) -> Affine:
    """A copy of a convolution or linear whose outputs are multiplied by `factor` (one per output channel)."""
    factor = factor.detach()
    shape = (-1, *(1,) * (module.weight.ndim - 1))
    return _with_weights(module, module.weight.detach() * factor.view(shape), _bias(module) * factor)


def absorb_affine(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    """A linear L' with L'(normalise(x)) = linear(norm(x)): `normalise` is the norm without its affine."""
    gamma, beta = norm.weight.detach(), norm.bias.detach()
    weight = linear.weight.detach()
    return _with_weights(linear, weight * gamma, _bias(linear) + weight @ beta)


def scale_queries(qkv: nn.Linear, shape: Attention) -> nn.Linear:
    """The joint projection with the attention scale key_dim^-0.5 in its query rows."""
    factor = torch.ones(shape.heads, shape.qkv_width // shape.heads, dtype=qkv.weight.dtype)
    factor[:, : shape.key_dim] = shape.key_dim**-0.5
    return scale_outputs(qkv, factor.flatten().to(qkv.weight.device))


def mean_linear(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One linear that gives the mean of several linears' outputs."""
    weight = torch.stack([linear.weight.detach() for linear in linears]).mean(0)
    bias = torch.stack([_bias(linear) for linear in linears]).mean(0)
    return _with_weights(linears[0], weight, bias)


def _bias(module: nn.Conv2d | nn.Linear) -> Tensor:
    if module.bias is None:
        return module.weight.new_zeros(module.weight.shape[0])
    return module.bias.detach()


def _with_weights(module: Affine, weight: Tensor, bias: Tensor) -> Affine:
    changed = copy.deepcopy(module)
    changed.weight, changed.bias = nn.Parameter(weight), nn.Parameter(bias)
    return changed


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


class FoldedPoolBlock(nn.Module):
    """MB4D deployed: (1 − γ)·x + γ·pool(x), then two convolutions and the activation."""

    keep: Tensor
    mix: Tensor

    def __init__(self, gamma: Tensor, first: nn.Conv2d, act: nn.Module, second: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("mix", gamma.detach().clone()[:, None, None])
        self.register_buffer("keep", 1 - self.mix)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.first, self.act, self.second = first, act, second

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        x = x * self.keep + self.pool(x) * self.mix
        return x + self.second(self.act(self.first(x)))


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


class FoldedHead(nn.Module):
    """The head deployed: one norm without affine, the mean, one linear."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → (B, classes)."""
        return self.linear(normalise(x).mean(1))


def normalise(x: Tensor) -> Tensor:
    """LayerNorm over the last dimension without its affine; eps as in `nn.LayerNorm`."""
    return F.layer_norm(x, x.shape[-1:])
