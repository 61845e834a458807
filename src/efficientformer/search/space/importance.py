"""How much each position and stage of the space matters: what the greedy policies choose their actions by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Importance:
    """The paper's scores, one row a stage.

    Attributes:
        positions: of each MetaPath: the block paths' probability over the identity's.
    """

    positions: tuple[tuple[float, ...], ...]

    def stage(self, index: int, alive: Sequence[int]) -> float:
        """A stage's importance: the sum over its positions that are not identities yet."""
        return sum(self.positions[index][position] for position in alive)
