"""The path of a search, read from its journal in order: steps, and checks by measurement.

A step's predicted milliseconds were written with the latency table's scale at that time, and every check by
measurement changed that scale. `Trail` keeps each figure as written and can give all of them at the last one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.search.journal import Journal, Option, Start, Step
from efficientformer.search.space.actions import ActionKind


@dataclass(frozen=True)
class Check:
    """A network of the path, exported and measured during the search.

    Attributes:
        place: which network: 0 for the start, else a step's index.
        predicted_ms: what the table said just before.
        measured_ms: median of the measurement.
        scale_before: the table's scale in that prediction.
        scale: its scale from then on.
    """

    place: int
    predicted_ms: float
    measured_ms: float
    scale_before: float
    scale: float


@dataclass(frozen=True)
class Point:
    """A network of the search, or one that was turned down, at the last scale.

    Attributes:
        place: 0 for the start, else the index of its step.
        option: what led to it; none for the start.
        latency_ms: predicted, at the table's last scale.
        accuracy: on the search images, with inherited weights.
    """

    place: int
    option: Option | None
    latency_ms: float
    accuracy: float


@dataclass(frozen=True)
class Trail:
    """A search.

    Attributes:
        start: the unslimmed network.
        events: steps and checks, in the order they happened.
        chosen: place of the network the run ended with.
    """

    start: Start
    events: tuple[Step | Check, ...]
    chosen: int

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps alone."""
        return tuple(event for event in self.events if isinstance(event, Step))

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The checks alone."""
        return tuple(event for event in self.events if isinstance(event, Check))

    @cached_property
    def kinds(self) -> tuple[ActionKind, ...]:
        """The kinds of action that were taken or turned down, in the order in which they are always named."""
        there = {point.option.action.kind for point in (*self.path, *self.turned_down) if point.option}
        return tuple(kind for kind in get_args(ActionKind) if kind in there)

    @property
    def first_scale(self) -> float:
        """The table's scale when the search began."""
        if self.steps and self.steps[0].scale:
            return self.steps[0].scale
        return self.checks[0].scale_before if self.checks else 1.0

    @property
    def last_scale(self) -> float:
        """The table's scale when it ended."""
        return self.checks[-1].scale if self.checks else 1.0

    @cached_property
    def path(self) -> tuple[Point, ...]:
        """The start and each step's network."""
        start = self.start
        factors = self._factors
        first = Point(0, None, start.predicted_ms * self.last_scale / self.first_scale, start.accuracy)
        return (first, *(_point(step.index, step.chosen, factors[step.index]) for step in self.steps))

    @cached_property
    def turned_down(self) -> tuple[Point, ...]:
        """The networks that were not taken, with the step they competed in."""
        return tuple(
            _point(step.index, option, self._factors[step.index])
            for step in self.steps
            for option in step.turned_down
        )

    @cached_property
    def _factors(self) -> dict[int, float]:
        """By step: the last scale over the one its figures were written with."""
        scale, factors = self.first_scale, {}
        for event in self.events:
            if isinstance(event, Check):
                scale = event.scale
            else:
                factors[event.index] = self.last_scale / (event.scale or scale)
        return factors


def _point(place: int, option: Option, factor: float) -> Point:
    return Point(place, option, option.predicted_ms * factor, option.accuracy)


def read_trail(path: Path, found: str) -> Trail:
    """The search of a journal file.

    Args:
        path: the journal.
        found: the network the run ended with, as `str` gives it without identities.

    Raises:
        InputError: if the journal is damaged, holds no search, or never came to that network.
    """
    journal = Journal(path)
    if journal.start is None:
        raise InputError(f"{path}: holds no search; give the folder of a run that `slim` has finished")
    networks = journal.architectures()
    places = {str(one.compact()): place for place, one in enumerate(networks)}
    if found not in places:
        raise InputError(f"{path}: never came to {found}, where summary.json ends; are both of one run?")
    order = {one: place for place, one in enumerate(networks)}
    return Trail(journal.start, tuple(_events(path, order)), places[found])


def _events(path: Path, order: dict[Architecture, int]) -> list[Step | Check]:
    events: list[Step | Check] = []
    whole = path.read_bytes().rpartition(b"\n")[0]  # a last line cut short is not part of the journal
    for text in whole.splitlines():  # `Journal` does not keep the checks' order
        line = json.loads(text)
        if line["event"] == "step":
            events.append(Step.from_json(line))
        elif line["event"] == "verified":
            events.append(_check(line, order))
    return events


def _check(line: dict[str, Any], order: dict[Architecture, int]) -> Check:
    predicted, measured, scale = line["predicted_ms"], line["measured_ms"], line["scale"]
    # the new scale makes prediction equal measurement, so it tells the old one too: 1, or a shared table's
    place = order[Architecture.from_json(line["architecture"])]
    return Check(place, predicted, measured, predicted * scale / measured, scale)
