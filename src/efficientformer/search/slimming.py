"""Latency-driven slimming, the paper's greedy search (§3.3, Algorithm 1).

Until a network fits: of the three actions, take the one with the least accuracy drop
per millisecond saved. Predicting and scoring are given as functions, so that the search itself is pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.progress import Progress
from efficientformer.search.actions import Action, candidates
from efficientformer.search.importance import Importance
from efficientformer.search.journal import Journal, Option, Start, Step
from efficientformer.search.space import SearchSpace


class Scored(Protocol):
    """What scoring a network gives."""

    @property
    def top1(self) -> float:
        """Share of the images that are right."""
        ...

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        ...

    @property
    def images(self) -> int:
        """How many images were scored."""
        ...


Predict = Callable[[Architecture], float]
Score = Callable[[Architecture], Scored]


def slim(
    space: SearchSpace,
    importance: Importance,
    fits: Callable[[Architecture], bool],
    predict: Predict,
    score: Score,
    journal: Journal,
    progress: Progress | None = None,
) -> Architecture:
    """Follow the path of the search, and lengthen it if need be, to the first network that fits.

    The path does not depend on the budget: another budget picks another point of the same path.

    Args:
        space: what can be searched.
        importance: of positions and stages.
        fits: whether a network of the path meets the budget.
        predict: milliseconds of an architecture; smaller networks must not cost more.
        score: accuracy of an architecture on images set apart.
        journal: of the search so far; steps are added to it.
        progress: told of each step.

    Raises:
        InputError: if nothing is left to take away and no network fits.
    """
    progress = progress or Progress(None)
    if journal.start is None:
        scored = score(space.largest)
        first = predict(space.largest)
        journal.begin(Start(space.largest, first, scored.top1, scored.loss, scored.images))
    elif journal.start.architecture != space.largest:
        raise InputError(f"{journal.path}: belongs to another search space; remove it to search again")
    for architecture in journal.architectures():
        if fits(architecture):
            return architecture
    while True:
        step = _next_step(space, importance, predict, score, journal)
        journal.add(step)
        chosen = step.chosen
        told = f"{chosen.action} · {chosen.predicted_ms:.3f} ms · accuracy {100 * chosen.accuracy:.1f} %"
        progress.line(f"   step {step.index}: {told}")
        if fits(step.architecture):
            return step.architecture


def _next_step(
    space: SearchSpace, importance: Importance, predict: Predict, score: Score, journal: Journal
) -> Step:
    if journal.start is None:
        raise InputError(f"{journal.path}: holds no search")
    here = journal.architectures()[-1]
    last = journal.steps[-1].chosen if journal.steps else journal.start
    before_ms, before = predict(here), last.accuracy
    options, losses = [], {}
    for kind in candidates(here, importance, space):
        action = _first_that_saves(kind, here, before_ms, predict)
        if action is None:
            continue
        after = action.apply(here)
        scored, after_ms = score(after), predict(after)
        option = Option(
            action, after_ms, before_ms - after_ms, scored.top1, scored.loss, before - scored.top1
        )
        options.append(option)
        losses[option] = scored.loss - last.loss
    if not options:
        raise InputError(f"{journal.path}: nothing is left to take away at {before_ms:.3f} ms")
    options.sort(key=lambda option: _cost(option, losses[option]))
    chosen, *rest = options
    return Step(len(journal.steps) + 1, chosen, tuple(rest), chosen.action.apply(here))


def _first_that_saves(
    actions: list[Action], here: Architecture, before_ms: float, predict: Predict
) -> Action | None:
    return next((action for action in actions if predict(action.apply(here)) < before_ms), None)


def _cost(option: Option, more_loss: float) -> tuple[float, float, float]:
    """What the least of is chosen: accuracy drop per millisecond saved; then loss, then the greater saving.

    A gain counts as no drop: divided by the milliseconds, it would favour whatever saves the least.
    """
    saved = option.saved_ms
    return max(0.0, option.drop) / saved, max(0.0, more_loss) / saved, -saved
