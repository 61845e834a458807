"""Latency-driven slimming, the paper's greedy search (§3.3, Algorithm 1).

Until a network fits: of the actions, the least important of each kind, take the one with the least accuracy
drop per millisecond saved. Predicting and scoring are given as functions, so that the search itself is pure.
"""

from __future__ import annotations

from collections.abc import Callable

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.progress import Progress
from efficientformer.search.journal import Journal, Option, Start, Step
from efficientformer.search.scores import ScoreMany
from efficientformer.search.space.actions import ACTIONS, Action, ActionKind, candidates
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import SearchSpace

TOLERANCE = 0.005
"""Share of the present latency that a step must save more than. On many targets widths cost in steps: those
of one stair differ by less than the table can tell, and the widest of them is meant."""

Predict = Callable[[Architecture], float]
Importances = Importance | Callable[[Architecture], Importance]
"""The importances of positions and stages: fixed, or measured anew for each network of the path."""


def greedy(
    space: SearchSpace,
    importance: Importances,
    fits: Callable[[Architecture], bool],
    predict: Predict,
    score: ScoreMany,
    journal: Journal,
    progress: Progress | None = None,
    *,
    allowed: tuple[ActionKind, ...] = ACTIONS,
    tolerance: float = TOLERANCE,
    policy: str = "greedy",
) -> Architecture:
    """Follow the path of the search, and lengthen it if need be, to the first network that fits.

    The path does not depend on the budget: another budget picks another point of the same path.

    Args:
        space: what can be searched.
        importance: of positions and stages, or how to measure it for a network of the path.
        fits: whether a network of the path meets the budget.
        predict: milliseconds of an architecture; smaller networks must not cost more.
        score: accuracy of architectures on images set apart; asked once a step.
        journal: of the search so far; steps are added to it.
        progress: told of each step.
        allowed: the kinds of action to consider.
        tolerance: the share of the present latency that a step must save more than, unless none does.
        policy: the name that the journal knows the search by.

    Raises:
        InputError: if nothing is left to take away and no network fits, or the journal is of another search.
    """
    progress = progress or Progress(None)
    start = begin(space, predict, score, journal, policy)
    path = journal.architectures()
    for architecture in path:
        if fits(architecture):
            return architecture
    here, last = path[-1], journal.steps[-1].chosen if journal.steps else start
    finder = Finder(space, importance, predict, allowed, tolerance)
    while True:
        step = next_step(finder, here, last, len(journal.steps) + 1, score)
        if step is None:
            raise InputError(f"{journal.path}: nothing is left to take away at {predict(here):.3f} ms")
        journal.add(step)
        progress.line(f"   {step.brief}")
        here, last = step.architecture, step.chosen
        if fits(here):
            return here


def begin(
    space: SearchSpace, predict: Predict, score: ScoreMany, journal: Journal, policy: str = "greedy"
) -> Start:
    """The journal's start, written if it has none.

    Raises:
        InputError: if the journal is of another space or policy.
    """
    start = journal.start
    if start is None:
        (scored,) = score([space.largest])
        first = predict(space.largest)
        start = Start(space.largest, first, scored.top1, scored.loss, scored.images, policy)
        journal.begin(start)
    elif start.architecture != space.largest:
        raise InputError(f"{journal.path}: belongs to another search space; remove it to search again")
    elif start.policy != policy:
        raise InputError(f"{journal.path}: belongs to policy {start.policy}, not {policy}; give another file")
    return start


class Finder:
    """Finds the actions that a step chooses from.

    Args:
        space: what can be searched.
        importance: of positions and stages, or how to measure it.
        predict: milliseconds of an architecture.
        allowed: the kinds of action to consider.
        tolerance: the share of the present latency that an action must save more than, unless none does.
    """

    def __init__(
        self,
        space: SearchSpace,
        importance: Importances,
        predict: Predict,
        allowed: tuple[ActionKind, ...] = ACTIONS,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.space, self.predict = space, predict
        self._importance, self._allowed, self._tolerance = importance, allowed, tolerance

    def find(self, here: Architecture) -> tuple[list[Action], list[Action]]:
        """Of each kind the most preferred action that saves enough; and those preferred to it that do not."""
        known = self._importance
        importance = known if isinstance(known, Importance) else known(here)
        kinds = candidates(here, importance, self.space, self._allowed)
        before_ms = self.predict(here)
        for least_ms in (self._tolerance * before_ms, 0.0):
            found: list[Action] = []
            skipped: list[Action] = []
            for actions in kinds:
                passed, action = self._first(actions, here, before_ms - least_ms)
                skipped += passed
                found += [action] if action else []
            if found:
                return found, skipped
        return [], []

    def _first(
        self, actions: list[Action], here: Architecture, below_ms: float
    ) -> tuple[list[Action], Action | None]:
        """The actions before the first that leads below a latency, and that one; none and None without it."""
        for index, action in enumerate(actions):
            if self.predict(action.apply(here)) < below_ms:
                return actions[:index], action
        return [], None


def next_step(
    finder: Finder, here: Architecture, last: Option | Start, index: int, score: ScoreMany
) -> Step | None:
    """The step from a network; None if nothing is left to take away.

    Args:
        finder: of the actions to choose from.
        here: where the search stands.
        last: what led there, with its accuracy and loss.
        index: of the step, from 1.
        score: asked for all the options together.
    """
    actions, skipped = finder.find(here)
    if not actions:
        return None
    before_ms = finder.predict(here)
    networks = [action.apply(here) for action in actions]
    ranked = []
    for action, after, scored in zip(actions, networks, score(networks), strict=True):
        after_ms, drop = finder.predict(after), last.accuracy - scored.top1
        option = Option(action, after_ms, before_ms - after_ms, scored.top1, scored.loss, drop)
        ranked.append((_cost(option, scored.loss - last.loss), option))
    ranked.sort(key=lambda pair: pair[0])
    chosen, *rest = (option for _, option in ranked)
    return Step(index, chosen, tuple(rest), chosen.action.apply(here), tuple(skipped))


def _cost(option: Option, more_loss: float) -> tuple[float, float, float]:
    """What the least of is chosen: accuracy drop per millisecond saved; then loss, then the greater saving.

    A gain counts as no drop: divided by the milliseconds, it would favour whatever saves the least.
    """
    saved = option.saved_ms
    return max(0.0, option.drop) / saved, max(0.0, more_loss) / saved, -saved
