"""A sub-network with the supernet's weights: blocks taken by position and kind, channels by their rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from efficientformer.architecture import Architecture
from efficientformer.model.network import EfficientFormer
from efficientformer.search.supernet.narrowing import kept_channels, narrowed
from efficientformer.search.supernet.supernet import Supernet


@dataclass(frozen=True)
class Ranking:
    """Every narrowable width's channels, best first.

    Attributes:
        order: `stage.I`, `stem`, and `stages.I.blocks.P.KIND` for hidden widths, to channel indices. A width
            that is not named has its best channels first, as elastic training leaves them.
    """

    order: Mapping[str, Tensor] = field(default_factory=dict)

    def keep(self, key: str, count: int) -> Tensor:
        """The `count` best channels, in their own order."""
        if key not in self.order:
            return torch.arange(count)
        return self.order[key][:count].sort().values

    @classmethod
    def of(cls, scores: Mapping[str, Tensor]) -> Ranking:
        """From a score per channel; ties go to the lower index."""
        return cls({key: score.argsort(descending=True, stable=True) for key, score in scores.items()})


def inherit(
    supernet: Supernet, architecture: Architecture, ranking: Ranking | None = None
) -> EfficientFormer:
    """Build a sub-network and fill it from the supernet.

    Args:
        supernet: where the weights are.
        architecture: of the supernet's space, its identities still in place; the network built has none left.
            For smaller images than the supernet's, tables of attention biases are interpolated.
        ranking: which channels survive a narrowing; the first ones by default.
    """
    keep = (ranking or Ranking()).keep
    trained = architecture.with_input_size(supernet.space.largest.input_size[0])
    network = EfficientFormer(trained.compact())
    targets = network.named_modules_of_layers()
    with torch.no_grad():
        for (name, layer), (_, _, target) in zip(trained.named_layers(), targets, strict=True):
            tensors, kept = supernet.part(name, layer.kind).state_dict(), kept_channels(name, layer, keep)
            for key, tensor in target.state_dict().items():
                tensor.copy_(narrowed(tensors[key], layer.kind, key, kept))
    if architecture.input_size != trained.input_size:
        network.set_input_size(architecture.input_size)
    return network.eval()
