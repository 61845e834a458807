"""Batch norm over the images of all processes. torch has it for CUDA alone; here the same for processors."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronised(model: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm2d of a model, in place, take its statistics over all processes."""
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, _like(child, device))
        else:
            synchronised(child, device)


def _like(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(norm))
    norm.__class__ = SyncBatchNorm2d  # parameters, statistics and hooks stay what they are
    return norm


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


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose mean and variance in training are those of all processes' images together.

    Processes may hold different numbers of images. Gradients pass through the sums, so that two processes of
    half a batch learn what one of the whole batch does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = torch.tensor([float(x.numel() // x.shape[1])])
        sums = _SumOverProcesses.apply(torch.cat([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean, square = (sums[:-1] / total).chunk(2)
        variance = (square - mean * mean).clamp_min(0)
        self._remember(mean.detach(), variance.detach() * total / (total - 1).clamp_min(1))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        batches = cast(Tensor, self.num_batches_tracked).add_(1)
        share = 1 / float(batches) if self.momentum is None else self.momentum
        running_mean.lerp_(mean, share)
        running_var.lerp_(variance, share)
