"""Batch norm over the images of all processes. torch has it for CUDA alone; here the same for processors."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn


def synchronised(model: nn.Module, device: torch.device) -> None:
    """Make every batch norm of a model, in place, take its statistics over all processes.

    timm's norms that hold their activation keep it.
    """
    if device.type == "cuda":
        convert_sync_batchnorm(model)
        return
    for norm in model.modules():
        if isinstance(norm, BatchNormAct2d):
            norm.__class__ = SyncBatchNormAct2d
        elif type(norm) is nn.BatchNorm2d:
            norm.__class__ = SyncBatchNorm2d  # parameters, statistics and hooks stay what they are


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs. torch's own is deprecated or private."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _forward(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm whose mean and variance are those of all processes' images together.

    Processes may hold different numbers of images. Gradients pass through the sums, so that two processes of
    half a batch learn what one of the whole batch does.
    """
    wide = x.float()
    count = wide.new_tensor([wide.numel() / wide.shape[1]])
    sums = _SumOverProcesses.apply(torch.cat([wide.sum((0, 2, 3)), (wide * wide).sum((0, 2, 3)), count]))
    total = sums[-1].detach()
    mean, square = (sums[:-1] / total).chunk(2)
    variance = (square - mean * mean).clamp_min(0)
    _remember(norm, mean.detach(), variance.detach() * total / (total - 1).clamp_min(1))
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    running_mean, running_var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    batches = cast(Tensor, norm.num_batches_tracked).add_(1)
    share = 1 / float(batches) if norm.momentum is None else norm.momentum
    running_mean.lerp_(mean, share)
    running_var.lerp_(variance, share)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes in training."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return _forward(self, input) if self.training else super().forward(input)


class SyncBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with its activation, over all processes in training."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.act(self.drop(_forward(self, x))) if self.training else super().forward(x)
