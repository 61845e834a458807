"""How far the greedy choice is from the best: both over the same additive values and the same costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.evaluation.score import Score
from efficientformer.search.policies.exact import Exact, solve
from efficientformer.search.policies.greedy import TOLERANCE, Finder, next_step
from efficientformer.search.policies.values import Values
from efficientformer.search.scores import ScoreMany
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, Window, predicted_ms
from efficientformer.search.steps import Start, Step


@dataclass(frozen=True)
class Gap:
    """The greedy network and the best one at or under the same latency.

    Attributes:
        greedy: the greedy choice's, drops read from the values.
        exact: the best by integer programming.
        greedy_ms: predicted latency of the greedy one.
        greedy_objective: the sum of its rises in loss.
        greedy_loss: measured with inherited weights; none if nothing was scored.
        exact_loss: the same of the best.
    """

    greedy: Architecture
    exact: Exact
    greedy_ms: float
    greedy_objective: float
    greedy_loss: float | None = None
    exact_loss: float | None = None

    @property
    def objective_gap(self) -> float:
        """Rise in loss, as the values have it, that the greedy choice gives away; from 0."""
        return self.greedy_objective - self.exact.objective

    @property
    def loss_gap(self) -> float | None:
        """The same as measured; below 0 where the values mislead."""
        if self.greedy_loss is None or self.exact_loss is None:
            return None
        return self.greedy_loss - self.exact_loss

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "greedy": self.greedy.to_json(),
            "exact": self.exact.architecture.to_json(),
            "greedy_ms": self.greedy_ms,
            "exact_ms": self.exact.predicted_ms,
            "greedy_objective": self.greedy_objective,
            "exact_objective": self.exact.objective,
            "exact_bound": self.exact.bound,
            "objective_gap": self.objective_gap,
            "greedy_loss": self.greedy_loss,
            "exact_loss": self.exact_loss,
            "loss_gap": self.loss_gap,
        }


def greedy_over(
    choices: Choices, values: Values, costs: Costs, high_ms: float, tolerance: float = TOLERANCE
) -> list[Step]:
    """The greedy search with the rises in loss read from the values instead of measured.

    Returns:
        its steps, down to the first network at or under `high_ms`.

    Raises:
        InputError: if nothing is left to take away before that.
    """
    predict, here = partial(predicted_ms, costs), choices.space.largest
    finder = Finder(choices.space, values.importance(), predict, choices.allowed, tolerance)

    def score(networks: Sequence[Architecture]) -> list[Score]:
        return [Score(0.0, values.of(one), 1) for one in networks]  # no top-1 here: the loss decides

    steps: list[Step] = []
    last: Any = Start(here, predict(here), 0.0, values.of(here), 1)
    while predict(here) > high_ms:
        step = next_step(finder, here, last, len(steps) + 1, score)
        if step is None:
            raise InputError(f"nothing is left to take away at {predict(here):.3f} ms, over {high_ms:.3f} ms")
        steps.append(step)
        here, last = step.architecture, step.chosen
    return steps


def optimality_gap(
    choices: Choices, values: Values, costs: Costs, high_ms: float, score: ScoreMany | None = None
) -> Gap:
    """Hold the greedy choice against the best one at or under a latency.

    Args:
        choices: what each place can have.
        values: of each choice.
        costs: of each layer.
        high_ms: the most milliseconds.
        score: to measure the loss of both too.
    """
    steps = greedy_over(choices, values, costs, high_ms)
    greedy = steps[-1].architecture if steps else choices.space.largest
    exact = solve(choices, values, costs, Window(0.0, high_ms))
    losses = [one.loss for one in score([greedy, exact.architecture])] if score else [None, None]
    return Gap(greedy, exact, predicted_ms(costs, greedy), values.of(greedy), *losses)
