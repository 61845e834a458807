"""Folding's arithmetic: what stands beside a convolution or linear is melted into its weights.

Batch norm, LayerScale, LayerNorm's affine, the attention scale and the two heads disappear this way. Nothing
here is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from efficientformer.layers import Attention

Affine = TypeVar("Affine", nn.Conv2d, nn.Linear)


def conv_bn(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that equals `norm(conv(x))` in evaluation."""
    return torch.nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm.eval())


def scale_outputs(module: Affine, factor: Tensor) -> Affine:
    """A copy of a convolution or linear whose outputs are multiplied by `factor` (one per output channel)."""
    factor = factor.detach()
    shape = (-1, *(1,) * (module.weight.ndim - 1))
    return _with_weights(module, module.weight.detach() * factor.view(shape), bias_of(module) * factor)


def scale_inputs(conv: nn.Conv2d, factor: Tensor) -> nn.Conv2d:
    """A copy of a convolution that takes its inputs multiplied by `factor` (one per input channel)."""
    return _with_weights(conv, conv.weight.detach() * factor[:, None, None], bias_of(conv))


def as_convolution(linear: nn.Linear) -> nn.Conv2d:
    """The 1×1 convolution that is a linear at every position of a map."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    return _with_weights(conv, linear.weight.detach()[:, :, None, None].clone(), bias_of(linear))


def absorb_affine(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    """A linear L' with L'(normalise(x)) = linear(norm(x)): `normalise` is the norm without its affine."""
    gamma, beta = norm.weight.detach(), norm.bias.detach()
    weight = linear.weight.detach()
    return _with_weights(linear, weight * gamma, bias_of(linear) + weight @ beta)


def scale_queries(qkv: nn.Linear, shape: Attention) -> nn.Linear:
    """The joint projection with the attention scale key_dim^-0.5 in its query rows."""
    factor = torch.ones(shape.heads, shape.qkv_width // shape.heads, dtype=qkv.weight.dtype)
    factor[:, : shape.key_dim] = shape.key_dim**-0.5
    return scale_outputs(qkv, factor.flatten().to(qkv.weight.device))


def mean_linear(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One linear that gives the mean of several linears' outputs."""
    weight = torch.stack([linear.weight.detach() for linear in linears]).mean(0)
    bias = torch.stack([bias_of(linear) for linear in linears]).mean(0)
    return _with_weights(linears[0], weight, bias)


def absorb_batch_norm(norm: nn.BatchNorm2d, linear: nn.Linear) -> nn.Linear:
    """A linear L' with L'(mean(x)) = linear(mean(norm(x))), the mean taken over positions."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    scale = norm.weight.detach() * torch.rsqrt(variance + norm.eps)
    shift = norm.bias.detach() - mean * scale
    weight = linear.weight.detach()
    return _with_weights(linear, weight * scale, bias_of(linear) + weight @ shift)


def join_outputs(convolutions: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One 1×1 convolution with the outputs of several that take the same input, in order."""
    weight = torch.cat([conv.weight.detach() for conv in convolutions])
    joined = _with_weights(convolutions[0], weight, torch.cat([bias_of(conv) for conv in convolutions]))
    joined.out_channels = len(weight)
    return joined


def add_centre(conv: nn.Conv2d, value: float) -> nn.Conv2d:
    """A depthwise convolution of odd kernel plus `value` times the positions it is centred on."""
    weight = conv.weight.detach().clone()
    weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] += value
    return _with_weights(conv, weight, bias_of(conv))


def without_bias(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution without its bias."""
    changed = copy.deepcopy(conv)
    changed.bias = None
    return changed


def bias_of(module: nn.Conv2d | nn.Linear) -> Tensor:
    """A convolution's or linear's bias; zeros where it has none."""
    if module.bias is None:
        return module.weight.new_zeros(module.weight.shape[0])
    return module.bias.detach()


def _with_weights(module: Affine, weight: Tensor, bias: Tensor) -> Affine:
    changed = copy.deepcopy(module)
    changed.weight, changed.bias = nn.Parameter(weight), nn.Parameter(bias)
    return changed
