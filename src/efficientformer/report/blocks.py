"""What became of each block and each width of the unslimmed network, from the steps that were taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from efficientformer.architecture import Architecture
from efficientformer.report.trail import Trail
from efficientformer.search.journal import Step
from efficientformer.search.space.actions import Action

_NAMES = {"pool": "pooling", "identity": "removed"}


def name(kind: str) -> str:
    """A kind of block in words."""
    return _NAMES.get(kind, kind)


@dataclass(frozen=True)
class Cell:
    """One position of a stage.

    Attributes:
        position: counted from 0, as the journal does.
        was: kind of its block in the unslimmed network.
        now: kind in the network found; `identity` if it was removed.
        changes: the steps that changed it, each with the kind it led to.
    """

    position: int
    was: str
    now: str
    changes: tuple[tuple[int, str], ...]

    @property
    def fate(self) -> str:
        """`kept`, `changed` or `removed`."""
        return "removed" if self.now == "identity" else "kept" if self.now == self.was else "changed"

    @property
    def text(self) -> str:
        """Its story in words."""
        told = [name(self.was), *(f"{name(kind)} (step {step})" for step, kind in self.changes)]
        return " → ".join(told) if self.changes else f"{told[0]}, kept"


@dataclass(frozen=True)
class StageStory:
    """One stage, before and after.

    Attributes:
        number: counted from 1.
        stride: pixels of the image for one of its map.
        grid: (height, width) of its map.
        width_was: channels in the unslimmed network.
        width_now: channels in the network found.
        narrowed: steps that narrowed it.
        cells: its positions.
    """

    number: int
    stride: int
    grid: tuple[int, int]
    width_was: int
    width_now: int
    narrowed: tuple[int, ...]
    cells: tuple[Cell, ...]

    @property
    def depth_now(self) -> int:
        """Blocks left."""
        return sum(cell.fate != "removed" for cell in self.cells)


def stage_stories(trail: Trail) -> tuple[StageStory, ...]:
    """The four stages; only the steps up to the network found count."""
    taken = trail.steps[: trail.chosen]
    before = trail.start.architecture
    after = taken[-1].architecture if taken else before
    return tuple(_stage(index, before, after, taken) for index in range(len(before.stages)))


def _stage(index: int, before: Architecture, after: Architecture, taken: tuple[Step, ...]) -> StageStory:
    here = [(step, action) for step in taken for action in _single(step) if action.stage == index]
    pairs = zip(before.stages[index].blocks, after.stages[index].blocks, strict=True)
    cells = tuple(
        Cell(position, was.kind, now.kind, tuple(_changes(here, index, position)))
        for position, (was, now) in enumerate(pairs)
    )
    narrowed = tuple(step.index for step, action in here if action.kind == "narrow_stage")
    width_was, width_now = before.widths[index], after.widths[index]
    return StageStory(index + 1, 4 * 2**index, before.grid(index), width_was, width_now, narrowed, cells)


def _single(step: Step) -> tuple[Action, ...]:
    """What a step did, one thing each."""
    return step.chosen.action.parts or (step.chosen.action,)


def _changes(steps: list[tuple[Step, Action]], stage: int, position: int) -> Iterator[tuple[int, str]]:
    """The steps that changed a position, each with the kind of block it left there."""
    for step, action in steps:
        if action.position == position:
            yield step.index, step.architecture.stages[stage].blocks[position].kind
