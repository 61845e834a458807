"""The paper's three actions (§3.3), each from an architecture to a smaller one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from efficientformer.architecture import Architecture
from efficientformer.search.importance import Importance
from efficientformer.search.space import IDENTITY, SearchSpace

ActionKind = Literal["remove_block", "remove_attention", "narrow_stage"]


@dataclass(frozen=True)
class Action:
    """One step of slimming.

    Attributes:
        kind: `remove_block` puts the identity in a position, `remove_attention` a pooling block for the first
            attention block, `narrow_stage` takes channels from a stage.
        stage: counted from 0.
        position: of the block in its stage; -1 when narrowing.
        width: the stage's new width; 0 unless narrowing.
        importance: the paper's score of the position or stage that was chosen as the least.
    """

    kind: ActionKind
    stage: int
    position: int = -1
    width: int = 0
    importance: float = 0.0

    def apply(self, architecture: Architecture) -> Architecture:
        """The architecture after the step."""
        match self.kind:
            case "remove_block":
                return architecture.with_block(self.stage, self.position, IDENTITY)
            case "remove_attention":
                return architecture.with_block(self.stage, self.position, "pool")
            case "narrow_stage":
                return architecture.with_width(self.stage, self.width)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Action:
        """The action of a journal line."""
        return cls(**document)

    def __str__(self) -> str:
        match self.kind:
            case "remove_block":
                return f"remove block {self.position} of stage {self.stage + 1}"
            case "remove_attention":
                return f"block {self.position} of stage {self.stage + 1}: attention → pooling"
            case "narrow_stage":
                return f"narrow stage {self.stage + 1} to {self.width}"


def candidates(architecture: Architecture, importance: Importance, space: SearchSpace) -> list[list[Action]]:
    """What can be done next: for each of the three kinds, its actions in order of preference.

    The paper takes the first of each kind; the ones behind it matter only where the first saves no time
    (a narrower stage can cost as much as a wider one).
    """
    alive = [
        [position for position, block in enumerate(stage.blocks) if block.kind != IDENTITY]
        for stage in architecture.stages
    ]
    kinds = (
        list(_removals(alive, importance, space)),
        list(_attention(architecture)),
        list(_narrowings(architecture, alive, importance, space)),
    )
    return [actions for actions in kinds if actions]


def _removals(alive: list[list[int]], importance: Importance, space: SearchSpace) -> Iterator[Action]:
    scored = (
        (importance.positions[stage][position], stage, position)
        for stage, positions in enumerate(alive)
        if len(positions) > space.min_depth
        for position in positions
    )
    for score, stage, position in sorted(scored):
        yield Action("remove_block", stage, position, importance=score)


def _attention(architecture: Architecture) -> Iterator[Action]:
    for stage, blocks in enumerate(stage.blocks for stage in architecture.stages):
        for position, block in enumerate(blocks):
            if block.kind == "attention":
                yield Action("remove_attention", stage, position)
                return  # the first only: attention stays at the end of the network


def _narrowings(
    architecture: Architecture, alive: list[list[int]], importance: Importance, space: SearchSpace
) -> Iterator[Action]:
    scored = sorted((importance.stage(stage, alive[stage]), stage) for stage in range(4))
    for score, stage in scored:
        width = architecture.widths[stage] - space.width_step
        while width >= space.narrowest(stage):
            yield Action("narrow_stage", stage, width=width, importance=score)
            width -= space.width_step
