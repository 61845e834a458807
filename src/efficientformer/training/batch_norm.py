"""Batch-norm statistics that fit a network's weights."""

from __future__ import annotations

import torch
from torch import nn

from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import Images


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, images: Images, side: int, count: int = 512) -> None:
    """Replace batch norms' running statistics by those of `count` images of the training set, classes mixed.

    A sub-network that takes its weights from a supernet sees other activations than the supernet did.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    network.train()
    for x, _ in evaluation_batches(images.sample(count), side, batch_size=128):
        if len(x) > 1:
            network(x.to(device, non_blocking=True))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
