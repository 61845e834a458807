"""The places of a network where something is chosen, and what: the space as most policies see it.

A place is a stage's width, a position's kind or expansion, the activation, the stem or the input size. A
network of the space is one choice at every place such that attention stays at the end (paper, §3.3) and no
stage is emptied.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from efficientformer.architecture import Architecture
from efficientformer.search.space.actions import ACTIONS, ActionKind
from efficientformer.search.space.search_space import IDENTITY, SearchSpace

Choice = int | str
What = Literal["width", "kind", "expansion", "activation", "stem", "input_size"]
WHOLE: tuple[What, ...] = ("activation", "stem", "input_size")
"""What is of the whole network, and changes more than one layer's neighbourhood."""


class Place(NamedTuple):
    """Where something is chosen: what, and the stage and position it belongs to (-1: none)."""

    what: What
    stage: int = -1
    position: int = -1

    def of(self, network: Architecture) -> Choice:
        """What a network has chosen here."""
        match self.what:
            case "width":
                return network.widths[self.stage]
            case "activation":
                return network.activation
            case "stem":
                return network.stem
            case "input_size":
                return network.input_size[0]
        block = network.stages[self.stage].blocks[self.position]
        return block.kind if self.what == "kind" else block.expansion

    def put(self, network: Architecture, choice: Choice) -> Architecture:
        """The network with another choice here."""
        match self.what:
            case "width":
                return network.with_width(self.stage, int(choice))
            case "kind":
                return network.with_block(self.stage, self.position, str(choice))
            case "expansion":
                return network.with_expansion(self.stage, self.position, int(choice))
            case "activation":
                return dataclasses.replace(network, activation=str(choice))
            case "stem":
                return dataclasses.replace(network, stem=str(choice))
            case "input_size":
                return network.with_input_size(int(choice))

    def idle(self, network: Architecture) -> bool:
        """Whether the choice does not matter: the expansion of a position left out."""
        return self.what == "expansion" and Place("kind", self.stage, self.position).of(network) == IDENTITY


@dataclass(frozen=True)
class Choices:
    """What each place can have, when only some actions are allowed.

    Attributes:
        space: what can be searched.
        allowed: kinds of action; a choice that needs another one to reach it, or to undo it, is left out.
    """

    space: SearchSpace
    allowed: tuple[ActionKind, ...] = ACTIONS

    @cached_property
    def places(self) -> dict[Place, tuple[Choice, ...]]:
        """Every place with its choices: the largest network's first, sizes in falling order."""
        space = self.space
        found: dict[Place, tuple[Choice, ...]] = {}
        for stage in range(4):
            found[Place("width", stage)] = self._if("narrow_stage", space.widths(stage))
        for stage, position in space.positions():
            found[Place("kind", stage, position)] = self._kinds(stage, position)
            expansions = self._if("narrow_mlp", space.expansions_of(stage, position))
            found[Place("expansion", stage, position)] = expansions
        found[Place("activation")] = self._if("change_activation", space.every_activation)
        found[Place("stem")] = self._if("change_stem", space.every_stem)
        found[Place("input_size")] = self._if("shrink_input", space.every_side)
        return found

    def _if(self, action: ActionKind, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        return choices if action in self.allowed else choices[:1]

    def _kinds(self, stage: int, position: int) -> tuple[Choice, ...]:
        """The kinds of a position, the largest network's own first, the identity last."""
        own = self.space.largest.stages[stage].blocks[position].kind
        can = [own]
        for kind in self.space.paths(stage):
            if kind == "attention" != own:
                continue  # no action leads there
            if kind == IDENTITY:
                reached = self._removable(stage)
            else:
                by: ActionKind = "remove_attention" if "attention" in (kind, own) else "replace_block"
                reached = by in self.allowed
            if reached and kind != own:
                can.append(kind)
        return tuple(can)

    def _removable(self, stage: int) -> bool:
        return (
            "remove_block" in self.allowed
            and len(self.space.largest.stages[stage].blocks) > self.space.min_depth
        )

    def keeps_shape(self, network: Architecture) -> bool:
        """Whether no stage has too few blocks, and attention stays at the end."""
        return self.deep_enough(network) and attends_at_end(network)

    def deep_enough(self, network: Architecture) -> bool:
        """Whether no stage has too few blocks."""
        return all(
            depth >= min(self.space.min_depth, len(stage.blocks))
            for depth, stage in zip(network.depths, network.stages, strict=True)
        )

    def holds(self, network: Architecture) -> bool:
        """Whether a network, identities in place, is one of the space."""
        if [len(stage.blocks) for stage in network.stages] != [
            len(stage.blocks) for stage in self.space.largest.stages
        ]:
            return False
        listed = all(
            place.idle(network) or place.of(network) in choices for place, choices in self.places.items()
        )
        return listed and self.keeps_shape(network)

    def sample(self, generator: random.Random) -> Architecture:
        """A random network; choices that only a forbidden action leads to stay as the largest has them."""
        while True:
            network = self.space.sample(generator)
            for place, choices in self.places.items():
                if place.of(network) not in choices:
                    network = place.put(network, choices[0])
            if self.keeps_shape(network):
                return network

    def neighbours(self, network: Architecture) -> list[Architecture]:
        """Networks one small change away, larger or smaller, in a fixed order.

        A stage one step wider or narrower, a block's next expansion up or down, a position of another kind,
        restored or left out. What is of the whole network stays.
        """
        return [one for one in self._changed(network) if self.keeps_shape(one)]

    def _changed(self, network: Architecture) -> Iterator[Architecture]:
        for place, choices in self.places.items():
            if place.what in WHOLE or place.idle(network):
                continue
            now, near = place.of(network), choices
            if now not in choices:
                continue  # only a forbidden action changes it
            if place.what != "kind":
                index = choices.index(now)
                near = choices[max(0, index - 1) : index + 2]
            yield from (place.put(network, choice) for choice in near if choice != now)


def attends_at_end(network: Architecture) -> bool:
    """Whether no other block follows one that attends."""
    kinds = [block.kind for stage in network.stages for block in stage.blocks if block.kind != IDENTITY]
    attends = [kind == "attention" for kind in kinds]
    return attends == sorted(attends)
