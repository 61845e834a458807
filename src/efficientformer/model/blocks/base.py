"""What the modules of all kinds of layer share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.layers import Layout
from efficientformer.model.blocks import melt


def activation(name: str) -> nn.Module:
    """The activation module of that name (`architecture.ACTIVATIONS`)."""
    match name:
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU(approximate="tanh")
        case "relu":
            return nn.ReLU()
        case "hardswish":
            return nn.Hardswish()
        case "silu":
            return nn.SiLU()
    raise InputError(f"unknown activation {name!r}")


class LayerModule(nn.Module):
    """A layer in the form that is trained: the layout it takes, and its deployed form, which takes maps."""

    layout: Layout

    def fold(self) -> nn.Module:
        """A module on maps without norms to spare, equal to this one in evaluation mode."""
        raise NotImplementedError


class LayerScale(nn.Module):
    """A learned factor per channel, for one layout."""

    def __init__(self, width: int, layout: Layout, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Scale; the shape stays."""
        return x * (self.gamma if self.layout == "tokens" else self.gamma[:, None, None])


class ConvNorm(nn.Module):
    """A convolution and its batch norm, padded to keep the grid, or to halve it with `stride` 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/stride, W/stride)."""
        return self.norm(self.conv(x))

    def fold(self) -> nn.Conv2d:
        """One convolution."""
        return melt.conv_bn(self.conv, self.norm)


class Residual(nn.Module):
    """x + path(x): what deployed blocks are made of."""

    def __init__(self, *path: nn.Module) -> None:
        super().__init__()
        self.path = nn.Sequential(*path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return x + self.path(x)


def truncated_normal(*modules: nn.Linear | nn.Conv2d) -> None:
    """The authors' start for linears and 1×1 convolutions: std 0.02, biases zero [code]."""
    for module in modules:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
