"""What can be searched: the largest network, the kinds a position may take, how narrow a stage may get."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.layers import Attention
from efficientformer.presets import pooling

ATTENTION_STAGES = (2, 3)  # paper, §3.3: attention only where tokens are few
IDENTITY = "identity"


@dataclass(frozen=True)
class SearchSpace:
    """Everything between the largest network and the smallest.

    Attributes:
        largest: where slimming starts; its blocks are the supernet's positions.
        width_step: what a stage is narrowed by at once (paper: multiples of 16).
        min_width: no stage becomes narrower.
        min_depth: no stage keeps fewer blocks.
    """

    largest: Architecture
    width_step: int = 16
    min_width: int = 16
    min_depth: int = 1

    def paths(self, stage: int) -> tuple[str, ...]:
        """The choices at each position of a stage (counted from 0); the last is the identity."""
        return ("pool", "attention", IDENTITY) if stage in ATTENTION_STAGES else ("pool", IDENTITY)

    def smallest(self) -> Architecture:
        """The least network: the fewest blocks, all pooling, of the least width."""
        stages = tuple(
            dataclasses.replace(
                stage,
                width=self.narrowest(index),
                blocks=tuple(
                    dataclasses.replace(block, kind="pool" if position < self.min_depth else IDENTITY)
                    for position, block in enumerate(stage.blocks)
                ),
            )
            for index, stage in enumerate(self.largest.stages)
        )
        return dataclasses.replace(self.largest, stages=stages)

    def narrowest(self, stage: int) -> int:
        """The least width that steps of `width_step` from the largest reach."""
        width = self.largest.widths[stage]
        return width - max(0, (width - self.min_width) // self.width_step) * self.width_step

    def between(self) -> tuple[Architecture, ...]:
        """Networks spread over the space, the largest first and the smallest last, to calibrate with."""
        return (self.largest, *(self._shrunk(share) for share in (0.75, 0.5, 0.25)), self.smallest())

    def _shrunk(self, share: float) -> Architecture:
        """A network with about this share of each stage's blocks and widths, attention from the end."""
        network = self.largest
        for index, stage in enumerate(self.largest.stages):
            steps = round((1 - share) * (stage.width - self.narrowest(index)) / self.width_step)
            network = network.with_width(index, stage.width - steps * self.width_step)
            keep = max(self.min_depth, round(share * len(stage.blocks)))
            for position in range(keep, len(stage.blocks)):
                network = network.with_block(index, position, IDENTITY)
            if index == 2 or share < 0.5:  # attention goes from the front of the network
                for position in range(keep):
                    network = network.with_block(index, position, "pool")
        return network

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        document = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**document, "largest": self.largest.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SearchSpace:
        """The space that `to_json` wrote."""
        fields: dict[str, Any] = {**document, "largest": Architecture.from_json(document["largest"])}
        return cls(**fields)


@dataclass(frozen=True)
class _Size:
    """Widths and depths of the four stages, and the attention of all its blocks."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    attention: Attention = field(default_factory=Attention)


_SIZES = {
    "xs": _Size((32, 64, 96, 160), (2, 2, 4, 3), Attention(heads=4, key_dim=16, value_dim=64)),
    "s": _Size((32, 64, 128, 256), (2, 2, 6, 4), Attention(heads=8, key_dim=16, value_dim=64)),
    "m": _Size((48, 96, 224, 448), (3, 3, 8, 5)),
    "l7": _Size((96, 192, 384, 768), (6, 6, 18, 8)),
}
"""Supernets by name. `l7` holds all three of the paper's networks. The two small ones have less attention
than the paper's 8 heads of 32 and 128, which would outweigh the rest of a narrow network."""

SUPERNETS = tuple(_SIZES)


def supernet_space(name: str, *, input_size: int, num_classes: int) -> SearchSpace:
    """A search space by name.

    Its largest network attends in the whole of stage 4 and in the second half of stage 3.

    Raises:
        InputError: for an unknown name.
    """
    if name not in _SIZES:
        raise InputError(f"unknown supernet {name!r}; known: {', '.join(SUPERNETS)}")
    size = _SIZES[name]
    depths = size.depths
    largest = dataclasses.replace(
        pooling(size.widths, depths, depths[3]),
        attention=size.attention,
        input_size=(input_size, input_size),
        num_classes=num_classes,
        distilled=False,
    )
    for position in range(depths[2] - depths[2] // 2, depths[2]):
        largest = largest.with_block(2, position, "attention")
    return SearchSpace(largest)
