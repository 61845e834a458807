"""The search policies by name: one problem, one window, one way to ask any of them.

All see the same actions, latency table and scores, and count what they had scored, so that they can be
compared at equal cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.progress import Progress
from efficientformer.search.journal import Journal
from efficientformer.search.policies.bayesian import search_bayesian
from efficientformer.search.policies.candidates import WindowSearch
from efficientformer.search.policies.evolution import evolve
from efficientformer.search.policies.exact import solve
from efficientformer.search.policies.gap import greedy_over
from efficientformer.search.policies.greedy import TOLERANCE, Importances, begin, greedy
from efficientformer.search.policies.random_search import search_randomly
from efficientformer.search.policies.refine import refine as refine_network
from efficientformer.search.policies.values import measure_values
from efficientformer.search.scores import ScoreBook, Tally
from efficientformer.search.space.actions import ACTIONS, ActionKind
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, EmptyWindowError, Remembered, Window, predicted_ms
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import SearchSpace
from efficientformer.search.steps import Found

BY_WINDOW: dict[str, WindowSearch] = {
    "bayesian": search_bayesian,
    "evolution": evolve,
    "random": search_randomly,
}
"""The policies that score networks of the window, as many as they may."""
POLICIES = ("greedy", "greedy-remeasured", "exact", *BY_WINDOW)
EVALUATIONS = 128
"""Networks that the policies `BY_WINDOW` may score if nothing else is said."""


@dataclass(frozen=True)
class Problem:
    """What is searched, and by what it is judged.

    Attributes:
        space: what can be searched.
        costs: of each layer of the space; made anew when the table's scale has changed.
        book: of scores.
        importance: of positions and stages, by the supernet.
        remeasure: importance of a network of the path, for `greedy-remeasured`.
        journal: of the search; of one policy.
        allowed: the kinds of action.
        seed: of what is random.
        tolerance: the share of the latency that a greedy step must save more than.
        progress: told how far it is.
    """

    space: SearchSpace
    costs: Costs
    book: ScoreBook
    importance: Importance
    remeasure: Callable[[Architecture], Importance]
    journal: Journal
    allowed: tuple[ActionKind, ...] = ACTIONS
    seed: int = 0
    tolerance: float = TOLERANCE
    progress: Progress = field(default_factory=lambda: Progress(None))

    @cached_property
    def choices(self) -> Choices:
        """What each place of a network can have."""
        return Choices(self.space, self.allowed)


def search(
    policy: str,
    problem: Problem,
    window: Window,
    *,
    evaluations: int = EVALUATIONS,
    refine: int = 0,
) -> Found:
    """The network a policy finds for a latency window; run again, it takes up where it was stopped.

    Args:
        policy: one of `POLICIES`.
        problem: what is searched.
        window: the latencies that will do.
        evaluations: networks that the policies `BY_WINDOW` may have scored, the largest included; the others
            need what they need.
        refine: networks that may be scored besides, to move the result into the window if it lies outside.

    Returns:
        what was found, as the journal keeps it; `in_window` tells whether it lies in the window.

    Raises:
        InputError: for an unknown policy, a journal of another one, or a window no network lies in or under.
    """
    if policy not in POLICIES:
        raise InputError(f"unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    tally, costs = Tally(problem.book.score), Remembered(problem.costs)
    begin(problem.space, partial(predicted_ms, costs), tally.score, problem.journal, policy)
    tally.count([problem.space.largest])
    searched = True
    if policy in ("greedy", "greedy-remeasured"):
        network = _greedy(policy, problem, costs, window, tally)
    elif policy == "exact":
        network = _exact(problem, costs, window, tally)
    else:
        try:
            network = _in_window(policy, problem, costs, window, tally, evaluations)
        except EmptyWindowError:  # the nearest below
            network, searched = _moved(problem.space.largest, problem, costs, window, tally, 0), False
    if refine and not window.holds(predicted_ms(costs, network)):
        network = _moved(network, problem, costs, window, tally, refine)
    found = _found(policy, network, costs, window, tally, searched=searched)
    problem.journal.conclude(found)
    problem.progress.line(f"   {found}")
    return found


def conclude(policy: str, network: Architecture, problem: Problem, window: Window) -> Found:
    """A network that needed no search, as what a policy came to."""
    tally, costs = Tally(problem.book.score), Remembered(problem.costs)
    begin(problem.space, partial(predicted_ms, costs), tally.score, problem.journal, policy)
    found = _found(policy, network, costs, window, tally, searched=False)
    problem.journal.conclude(found)
    return found


def go_on(found: Found, problem: Problem, window: Window, *, refine: int) -> Found:
    """What was found at another scale of the table, moved into a window by small changes."""
    tally, costs = Tally(problem.book.score), Remembered(problem.costs)
    moved = _moved(found.architecture, problem, costs, window, tally, refine)
    found = _found(found.policy, moved, costs, window, tally, before=found.evaluations)
    problem.journal.conclude(found)
    problem.progress.line(f"   {found}")
    return found


def _greedy(policy: str, problem: Problem, costs: Costs, window: Window, tally: Tally) -> Architecture:
    importance: Importances = problem.remeasure if policy == "greedy-remeasured" else problem.importance

    def fits(architecture: Architecture) -> bool:
        return predicted_ms(costs, architecture) <= window.high_ms

    found = greedy(
        problem.space,
        importance,
        fits,
        partial(predicted_ms, costs),
        tally.score,
        problem.journal,
        problem.progress,
        allowed=problem.allowed,
        tolerance=problem.tolerance,
        policy=policy,
    )
    _count_path(problem.journal, found, tally)
    return found


def _count_path(journal: Journal, found: Architecture, tally: Tally) -> None:
    """Count what the steps up to the network found had scored, though a resumed search did not ask again."""
    path = journal.architectures()
    for here, step in zip(path, journal.steps, strict=False):
        if here == found:
            return
        tally.count([option.action.apply(here) for option in (step.chosen, *step.turned_down)])


def _exact(problem: Problem, costs: Costs, window: Window, tally: Tally) -> Architecture:
    problem.progress.line("   measuring what each single change costs")
    values = measure_values(problem.choices, tally.score)
    try:
        solved = solve(problem.choices, values, costs, window)
    except EmptyWindowError:
        solved = solve(problem.choices, values, costs, Window(0.0, window.high_ms))
    told = f"least rise in loss {solved.objective:.4f}, proved down to {solved.bound:.4f}"
    try:
        steps = greedy_over(problem.choices, values, costs, window.high_ms)
        rise = values.of(steps[-1].architecture if steps else problem.space.largest)
        told += f"; the greedy choice over the same rises has {rise:.4f}"
    except InputError as error:
        told += f"; the greedy choice over the same rises: {error}"
    problem.progress.line(f"   {told}")
    return solved.architecture


def _in_window(
    policy: str, problem: Problem, costs: Costs, window: Window, tally: Tally, evaluations: int
) -> Architecture:
    """What a policy of `BY_WINDOW` finds."""
    left = max(1, evaluations - len(tally))
    found = BY_WINDOW[policy](problem.choices, costs, window, tally, left, problem.seed, problem.progress)
    return found.architecture


def _moved(
    network: Architecture, problem: Problem, costs: Costs, window: Window, tally: Tally, refine: int
) -> Architecture:
    """A network moved into a window by small changes.

    These change nothing of the whole network: where its stem, activation or input size leave it over the
    window whatever else is changed, the fastest of the smallest networks is moved.
    """
    try:
        return refine_network(network, window, problem.choices, costs, tally, refine)
    except InputError:
        smallest = min(problem.space.smallest_ones(), key=partial(predicted_ms, costs))
        return refine_network(smallest, window, problem.choices, costs, tally, refine)


def _found(
    policy: str,
    network: Architecture,
    costs: Costs,
    window: Window,
    tally: Tally,
    *,
    searched: bool = True,
    before: int = 0,
) -> Found:
    (scored,) = tally.score([network])
    ms = predicted_ms(costs, network)
    score = (scored.top1, scored.loss, scored.images, before + len(tally))
    return Found(policy, network, ms, *score, window.holds(ms), window.low_ms, window.high_ms, searched)
