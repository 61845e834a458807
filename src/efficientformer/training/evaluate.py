"""How accurate a network is, on how many images; and batch-norm statistics that fit its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import Images


@dataclass(frozen=True)
class Score:
    """Accuracy with its number of images.

    Attributes:
        top1: share of images whose first guess is right.
        loss: mean cross-entropy.
        images: how many were scored.
    """

    top1: float
    loss: float
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy for images of the same kind (Wilson's)."""
        z, n, p = 1.96, self.images, self.top1
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {**asdict(self), "interval": [round(side, 4) for side in self.interval]}

    def __str__(self) -> str:
        return f"{100 * self.top1:.2f} % of {self.images} images"


@torch.no_grad()
def evaluate(network: nn.Module, images: Images, side: int) -> Score:
    """Score a network in evaluation mode on centre-cropped images."""
    network.eval()
    right, loss = 0, 0.0
    for x, labels in evaluation_batches(images, side):
        logits = network(x)
        right += int((logits.argmax(1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return Score(right / len(images), loss / len(images), len(images))


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, images: Images, side: int, count: int = 512) -> None:
    """Replace batch norms' running statistics by those of `count` images of the training set, classes mixed.

    A sub-network that takes its weights from a supernet sees other activations than the supernet did.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    network.train()
    for x, _ in evaluation_batches(images.sample(count), side, batch_size=128):
        if len(x) > 1:
            network(x)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
