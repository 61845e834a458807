"""What can be searched: the largest network, the kinds a position may take, how narrow a stage may get."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from efficientformer.architecture import ACTIVATIONS, Architecture, Block
from efficientformer.errors import InputError
from efficientformer.layers import STEMS, Attention, Layer
from efficientformer.presets import pooling

ATTENTION_STAGES = (2, 3)  # paper, §3.3: attention only where tokens are few
IDENTITY = "identity"
MAP_KINDS = ("ffn", "pool")  # blocks for any stage, the more capable first
PAPER_KINDS = ("pool", "attention")
OPEN_KINDS = ("pool", "ffn", "attention")
"""The paper's two, and EfficientFormerV2's unified FFN block beside them."""


@dataclass(frozen=True)
class SearchSpace:
    """Everything between the largest network and the smallest.

    Attributes:
        largest: where slimming starts; its blocks are the supernet's positions.
        kinds: of blocks, beside the identity; `attention` is a choice in the last two stages only.
        expansions: what a block's MLP may be narrowed to, beside the largest's; empty: it stays.
        activations: what all MLPs may have instead of the largest's; empty: it stays.
        stems: instead of the largest's; empty: it stays.
        input_sizes: smaller sides in pixels that images may have; empty: it stays.
        width_step: what a stage is narrowed by at once (paper: multiples of 16).
        min_width: no stage becomes narrower.
        min_depth: no stage keeps fewer blocks.
    """

    largest: Architecture
    kinds: tuple[str, ...] = PAPER_KINDS
    expansions: tuple[int, ...] = ()
    activations: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    input_sizes: tuple[int, ...] = ()
    width_step: int = 16
    min_width: int = 16
    min_depth: int = 1

    def __post_init__(self) -> None:
        known = ", ".join(OPEN_KINDS)
        if unknown := [kind for kind in self.kinds if kind not in OPEN_KINDS]:
            raise InputError(f"unknown kind of block {unknown[0]!r}; known: {known}")
        if not self.map_kinds:
            raise InputError(
                f"kinds of block {','.join(self.kinds)!r}: pool or ffn is needed; known: {known}"
            )
        if wrong := [one for one in self.expansions if not 1 <= one <= Block.expansion]:
            raise InputError(f"expansion {wrong[0]}: give whole numbers from 1 to {Block.expansion}")
        if self.width_step < 2 or self.width_step % 2 or self.min_width < 2 or self.min_depth < 1:
            raise InputError(
                "search space: the width step is an even number from 2, the least width 2 or more, the least "
                "depth 1 or more"
            )
        if wrong := [name for name in self.activations if name not in ACTIVATIONS]:
            raise InputError(f"unknown activation {wrong[0]!r}; known: {', '.join(ACTIVATIONS)}")
        if wrong := [name for name in self.stems if name not in STEMS]:
            raise InputError(f"unknown stem {wrong[0]!r}; known: {', '.join(STEMS)}")

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """The kinds that any stage may have, the more capable first."""
        return tuple(kind for kind in MAP_KINDS if kind in self.kinds)

    @property
    def every_activation(self) -> tuple[str, ...]:
        """The activations there are, the largest network's own first."""
        return tuple(dict.fromkeys((self.largest.activation, *self.activations)))

    @property
    def every_stem(self) -> tuple[str, ...]:
        """The stems there are, the largest network's own first."""
        return tuple(dict.fromkeys((self.largest.stem, *self.stems)))

    @property
    def every_side(self) -> tuple[int, ...]:
        """The sides that images may have, in pixels, the largest first."""
        own = self.largest.input_size[0]
        return (own, *sorted({one for one in self.input_sizes if one < own}, reverse=True))

    def paths(self, stage: int) -> tuple[str, ...]:
        """The choices at each position of a stage (counted from 0); the last is the identity."""
        attends = ("attention",) if "attention" in self.kinds and stage in ATTENTION_STAGES else ()
        return (*reversed(self.map_kinds), *attends, IDENTITY)

    def expansions_of(self, stage: int, position: int) -> tuple[int, ...]:
        """The expansions a block may have, the largest first."""
        own = self.largest.stages[stage].blocks[position].expansion
        return (own, *sorted((one for one in self.expansions if one < own), reverse=True))

    def widths(self, stage: int) -> tuple[int, ...]:
        """The widths of a stage, the largest first."""
        return tuple(range(self.largest.widths[stage], self.narrowest(stage) - 1, -self.width_step))

    def narrowest(self, stage: int) -> int:
        """The least width that steps of `width_step` from the largest reach."""
        width = self.largest.widths[stage]
        return width - max(0, (width - self.min_width) // self.width_step) * self.width_step

    def smallest(self, kind: str | None = None) -> Architecture:
        """The least network: the fewest blocks, of the least width and expansion.

        Args:
            kind: of its blocks; by default the one that computes least, pooling where it is a choice.
        """
        network = self.largest
        for stage, position in self.positions():
            if position < self.min_depth:
                network = network.with_block(stage, position, kind or self.map_kinds[-1])
                network = network.with_expansion(stage, position, self.expansions_of(stage, position)[-1])
            else:
                network = network.with_block(stage, position, IDENTITY)
        for stage in range(4):
            network = network.with_width(stage, self.narrowest(stage))
        return network.with_input_size(self.every_side[-1])

    def smallest_ones(self) -> tuple[Architecture, ...]:
        """The least network of each kind, activation and stem: which is the fastest, the target decides."""
        every = itertools.product(reversed(self.map_kinds), self.every_activation, self.every_stem)
        return tuple(
            dataclasses.replace(self.smallest(kind), activation=activation, stem=stem)
            for kind, activation, stem in every
        )

    def positions(self) -> Iterator[tuple[int, int]]:
        """Every (stage, position), in order of execution."""
        for stage, one in enumerate(self.largest.stages):
            for position in range(len(one.blocks)):
                yield stage, position

    def between(self) -> tuple[Architecture, ...]:
        """Networks spread over the space, the largest first and the smallest last, to calibrate with."""
        shrunk = [self._shrunk(share) for share in (0.75, 0.5, 0.25)]
        stems = itertools.cycle(reversed(self.every_stem))
        between = (dataclasses.replace(one, stem=stem) for one, stem in zip(shrunk, stems, strict=False))
        return (self.largest, *between, self.smallest())

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
                    network = network.with_block(
                        index, position, self.map_kinds[position % len(self.map_kinds)]
                    )
        return network

    def sample(self, generator: random.Random) -> Architecture:
        """A random network: of each stage the width and the depth evenly, of each block kind and expansion.

        Attention stays at the end of the network (paper, §3.3), from a random block of the largest's on.
        """
        network = self.largest
        for stage, one in enumerate(self.largest.stages):
            network = network.with_width(stage, generator.choice(self.widths(stage)))
            count = generator.randint(min(self.min_depth, len(one.blocks)), len(one.blocks))
            alive = set(generator.sample(range(len(one.blocks)), count))
            for position in range(len(one.blocks)):
                network = network.with_block(stage, position, IDENTITY)
                if position in alive:
                    network = network.with_block(stage, position, generator.choice(self.map_kinds))
                    expansion = generator.choice(self.expansions_of(stage, position))
                    network = network.with_expansion(stage, position, expansion)
        network = self._attending(network, generator)
        activation = generator.choice(self.every_activation)
        network = dataclasses.replace(network, activation=activation)
        if len(self.every_side) > 1:
            network = network.with_input_size(generator.choice(self.every_side))
        if len(self.every_stem) > 1:
            network = dataclasses.replace(network, stem=generator.choice(self.every_stem))
        return network

    def _attending(self, network: Architecture, generator: random.Random) -> Architecture:
        places = [
            (stage, position)
            for stage, position in self.positions()
            if self.largest.stages[stage].blocks[position].kind == "attention"
            and network.stages[stage].blocks[position].kind != IDENTITY
        ]
        for stage, position in places[len(places) - generator.randint(0, len(places)) :]:
            network = network.with_block(stage, position, "attention")
        return network

    def layers(self) -> tuple[Layer, ...]:
        """Every layer that any of its networks can have, each once."""
        found: dict[Layer, None] = {}
        for activation, side in itertools.product(self.every_activation, self.every_side):
            base = dataclasses.replace(self.largest, activation=activation).with_input_size(side)
            found |= dict.fromkeys(self._layers_of(base))
        return tuple(found)

    def _layers_of(self, base: Architecture) -> Iterator[Layer]:
        """The layers of networks with this activation and input size."""
        for stage, network in self._narrowed(base):
            for above in self.widths(stage - 1) if stage else ():
                yield dict(network.with_width(stage - 1, above).named_layers())[f"stages.{stage}.embed"]
            if stage == 0:
                stem = dict(network.named_layers())["stem"]
                yield from (dataclasses.replace(stem, kind=kind) for kind in self.every_stem)
            if stage == 3:
                yield dict(network.named_layers())["head"]
            positions = range(len(base.stages[stage].blocks))
            expansions = {one for position in positions for one in self.expansions_of(stage, position)}
            for kind, expansion in itertools.product(self.paths(stage)[:-1], sorted(expansions)):
                yield network.with_expansion(stage, 0, expansion).block_layer(stage, 0, kind)

    def _narrowed(self, base: Architecture) -> Iterator[tuple[int, Architecture]]:
        for stage in range(4):
            for width in self.widths(stage):
                yield stage, base.with_width(stage, width)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        document = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**document, "largest": self.largest.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SearchSpace:
        """The space that `to_json` wrote."""
        fields: dict[str, Any] = {**document, "largest": Architecture.from_json(document["largest"])}
        for name in ("kinds", "expansions", "activations", "stems", "input_sizes"):
            fields[name] = tuple(fields.get(name, getattr(cls, name)))  # runs of version 0.1 lack them
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


def supernet_space(name: str, *, input_size: int, num_classes: int, **options: Any) -> SearchSpace:
    """A search space by name.

    Its largest network attends in the whole of stage 4 and in the second half of stage 3, if attention is a
    choice; its other blocks are of the most capable kind.

    Args:
        name: one of `SUPERNETS`.
        input_size: pixels of a side.
        num_classes: outputs.
        options: of `SearchSpace`, such as `kinds`.

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
    return _of_its_kinds(SearchSpace(largest, **options))


def _of_its_kinds(space: SearchSpace) -> SearchSpace:
    """The space with the largest network's blocks taken from its kinds, the most capable."""
    network = space.largest
    for stage, position in space.positions():
        kind = network.stages[stage].blocks[position].kind
        if kind not in space.kinds or kind in MAP_KINDS:
            network = network.with_block(stage, position, space.map_kinds[0])
    return dataclasses.replace(space, largest=network)
