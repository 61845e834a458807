"""The deployed form for eager PyTorch on a CPU: channels-last maps, fused and packed convolutions.

    fast = efficientformer.pack(model)  # or torch.compile(efficientformer.pack(model))

It is `fold`'s network with oneDNN's fused operators in it, the ones that torch.compile's CPU backend writes:
a convolution with its activation, a convolution added to its residual stream, weights in the order the
kernels read them. These operators are torch's own but not documented; where they are missing, only the memory
layout is changed. Packed weights belong to this process: pack after loading, export from `fold`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.base import Residual
from efficientformer.model.deploy import fold
from efficientformer.model.network import EfficientFormer, check_whole

Sizes = dict[nn.Module, list[int]]
_FUSED: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "swish"}


def pack(network: EfficientFormer) -> nn.Module:
    """The fastest form of a network for inference in PyTorch on this CPU. The network itself is left alone.

    Args:
        network: of any architecture, on the CPU, in float32.

    Returns:
        a module that takes images as the network does. Its weights are oneDNN's own: it cannot be copied,
        cast, moved or saved.

    Raises:
        InputError: if the network is on another device or of another number type.
    """
    check_whole(network)
    like = next(network.parameters())
    if like.device.type != "cpu" or like.dtype != torch.float32:
        raise InputError(f"pack: the network is {like.dtype} on {like.device}; it must be float32 on the CPU")
    folded = fold(network)
    for parameter in folded.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    if not _available():
        return ChannelsLast(folded).eval()
    image = torch.zeros(1, network.architecture.in_channels, *network.architecture.input_size)
    with torch.no_grad():
        return ChannelsLast(_packed(folded, _input_sizes(folded, image))).eval()


def _available() -> bool:
    """Whether this build of torch has oneDNN and the fused operators."""
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


class ChannelsLast(nn.Module):
    """A network on channels-last maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → what the network gives."""
        return self.network(x.contiguous(memory_format=torch.channels_last))


class PackedConv(nn.Module):
    """A convolution with packed weights, and its activation or a residual addition in the same pass."""

    def __init__(self, conv: nn.Conv2d, size: list[int], act: nn.Module | None = None) -> None:
        super().__init__()
        self.where = (list(map(int, conv.padding)), list(conv.stride), list(conv.dilation), conv.groups)
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.where, size)
        self.bias = melt.bias_of(conv)
        self.act, self.algorithm = _fused(act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H', W')."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.where, self.act, [], self.algorithm
        )

    def add_to(self, stream: Tensor, x: Tensor) -> Tensor:
        """`stream` plus the convolution of x."""
        if torch.compiler.is_compiling():  # the fused operator cannot be traced; the compiler fuses the sum
            return stream + self(x)
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, stream, self.weight, self.bias, *self.where, "add", 1.0, None, [], None
        )


class PackedResidual(nn.Module):
    """A residual path whose last convolution adds itself to the stream."""

    def __init__(self, path: nn.Module, last: PackedConv) -> None:
        super().__init__()
        self.path, self.last = path, last

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.last.add_to(x, self.path(x))


def _fused(act: nn.Module | None) -> tuple[str, str | None]:
    if isinstance(act, nn.GELU):
        return "gelu", act.approximate
    return ("none" if act is None else _FUSED[type(act)]), None


def _is_fused(module: nn.Module) -> bool:
    return isinstance(module, (nn.GELU, *_FUSED))


def _input_sizes(network: nn.Module, image: Tensor) -> Sizes:
    """The shape of what every convolution takes."""
    sizes: Sizes = {}
    hooks = [
        module.register_forward_pre_hook(lambda conv, inputs: sizes.update({conv: list(inputs[0].shape)}))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    network(image)
    for hook in hooks:
        hook.remove()
    return sizes


def _packed(module: nn.Module, sizes: Sizes) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return PackedConv(module, sizes[module])
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*_packed_row(list(module), sizes))
    if isinstance(module, Residual):
        *path, last = _packed_row(list(module.path), sizes)
        if path and isinstance(last, PackedConv):
            return PackedResidual(nn.Sequential(*path), last)
        module.path = nn.Sequential(*path, last)
        return module
    for name, child in module.named_children():
        setattr(module, name, _packed(child, sizes))
    return module


def _packed_row(modules: list[nn.Module], sizes: Sizes) -> list[nn.Module]:
    """Modules in order, activations in the convolutions before them."""
    row: list[nn.Module] = []
    for before, module in zip([None, *modules], modules, strict=False):
        if isinstance(before, nn.Conv2d) and _is_fused(module):
            row[-1] = PackedConv(before, sizes[before], module)
        else:
            row.append(_packed(module, sizes))
    return row
