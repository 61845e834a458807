"""The contract: a network whose exported file, measured, takes no more than the budget and little less.

Search in a window of predicted latency a little under the budget; measure what it finds, before it is
trained; correct the table's scale and search again until the measurement lies within the contract. Then
train, export, measure the file itself, and begin again where that lies outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from efficientformer.architecture import Architecture
from efficientformer.errors import PromiseError
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import LatencyTable, Prediction
from efficientformer.latency.target import Target
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import SHORTFALL, TOLERANCE, Job
from efficientformer.pipeline.preflight import Plan
from efficientformer.pipeline.prove import Met, prove, quick_receipt
from efficientformer.pipeline.team import Team
from efficientformer.search.costs import Window, predicted_ms
from efficientformer.search.journal import Journal
from efficientformer.search.policies import BY_WINDOW, Problem, conclude, go_on, search
from efficientformer.search.scores import ScoreBook
from efficientformer.search.steps import Found

ATTEMPTS = 4  # trainings of a network for one budget
_SHORT = 2  # of them at most so many that come out under the contract
_SEARCHES = 6  # measured networks before one is trained
_LOW, _AIM, _HIGH = 0.95, 0.97, 0.99  # of the budget: the window for predictions, for measurements scatter
_MOVES = 200  # networks that may be scored to move a result into the window


class BudgetMissedError(PromiseError):
    """The exported file stayed over the budget after every attempt."""


@dataclass(frozen=True)
class Contract:
    """What all budgets of a run share in one precision; `meet` is for one of them.

    Attributes:
        job: the run.
        plan: what was found possible.
        rows: the latency table, of the target in this precision.
        book: of scores.
        journal: of the search.
        team: trains and scores.
    """

    job: Job
    plan: Plan
    rows: LatencyTable
    book: ScoreBook
    journal: Journal
    team: Team

    @property
    def target(self) -> Target:
        """Where networks are measured, and in which precision."""
        return self.rows.target

    def meet(self, budget_ms: float, folder: RunFolder) -> Met:
        """Search, train, export and measure until the exported file lies within the contract.

        Args:
            budget_ms: the budget.
            folder: for the exported file and the training's state.

        Raises:
            BudgetMissedError: if the file stays over the budget.
        """
        progress, limit = self.team.progress, (1 + TOLERANCE) * budget_ms
        under: dict[Architecture, Met] = {}
        for attempt in range(1, ATTEMPTS + 1):  # noqa: B007
            progress.stage(f"4/6 slimming to {budget_ms:.3f} ms")
            met = self._proved(self.find(budget_ms), folder)
            took = met.proof.slimmed.latency
            progress.line(f"   {took} against a budget of {budget_ms:.3f} ms")
            if took.median_ms <= limit:
                if within(took.median_ms, budget_ms) or self._is_all(met.found):
                    return met
                under[met.found] = met
            self._recalibrate(met.found, took)
            if len(under) == _SHORT:
                break  # faster than asked, twice: another training is not worth the rest
        if under:
            nearest = max(under.values(), key=lambda one: one.proof.slimmed.latency.median_ms)
            progress.line(f"   no attempt came nearer the budget than {nearest.found.compact()}: it is kept")
            met = nearest if nearest is met else self._proved(nearest.search, folder)  # its file anew
            if met.proof.slimmed.latency.median_ms <= limit:
                return met
        self.journal.miss(budget_ms)
        raise BudgetMissedError(
            f"{folder.root}: the last exported file took {took.median_ms:.3f} ms, over the budget of "
            f"{budget_ms:.3f} ms, after {attempt} attempts; is the machine busy? start the command again: "
            "it measures anew"
        )

    def _proved(self, search: Found, folder: RunFolder) -> Met:
        """What a search found, trained, exported and measured."""
        progress, found = self.team.progress, search.architecture
        progress.stage(f"5/6 training the network found: {found.compact()}")
        network = self.team.learn(found, folder)
        progress.stage("6/6 exporting, checking and measuring")
        proof = prove(network, folder, self.plan, self.target, self.team.judge.images(found))
        return Met(search, self._first_prediction(found), network, proof)

    def find(self, budget_ms: float) -> Found:
        """A network that, exported before it is trained and measured, lies within the contract.

        Each measurement corrects the table's scale, which moves the window's place among the networks. Where
        the scale of a network over the budget leads to one under it, and back, what lies between their scales
        is searched. If no search comes within, the one measured nearest under the budget is taken, or else
        the nearest.
        """
        self.rows.scale = self.journal.scale
        window = Window(_LOW * budget_ms, _HIGH * budget_ms)
        before = self.journal.found_in(window.low_ms, window.high_ms)  # the run was stopped since
        found = before[-1] if before else None
        seen = {one.architecture: one for one in before if one.architecture in self.journal.verified}
        if found is not None and found.architecture in seen and self._will_do(found.architecture, budget_ms):
            return found
        for _ in range(_SEARCHES):
            found = self._search(window, found)
            self._measure(found.architecture)
            if self._will_do(found.architecture, budget_ms):
                return found
            if found.architecture in seen and not self._scale_between(list(seen), budget_ms):
                break
            seen[found.architecture] = found
        took = self.journal.verified
        return seen[min(seen, key=lambda one: (took[one] > budget_ms, abs(took[one] - _AIM * budget_ms)))]

    def _search(self, window: Window, before: Found | None) -> Found:
        """What the policy finds in a window; those that are dear to run again go on from what they found."""
        problem = self.problem()
        smallest = min(self.plan.space.smallest_ones(), key=partial(predicted_ms, self.rows))
        if predicted_ms(self.rows, smallest) > window.high_ms:
            return conclude(self.job.policy, smallest, problem, window)
        if before is None or self.job.policy not in BY_WINDOW:
            return search(self.job.policy, problem, window, evaluations=self.job.evaluations, refine=_MOVES)
        if before.architecture not in self.journal.verified:
            return before  # it was found, and the run was stopped before it was measured
        return go_on(before, problem, window, refine=_MOVES)

    def _will_do(self, found: Architecture, budget_ms: float) -> bool:
        """Whether a network that was measured is worth training for a budget."""
        took = self.journal.verified[found]
        return took <= budget_ms and (within(took, budget_ms) or self._is_all(found))

    def _measure(self, found: Architecture) -> None:
        """Measure a network, once; the table's scale is then by it."""
        known = self.journal.verified.get(found)
        if known is not None:
            self.journal.rescale(found, self.rows.predict(found).ms, self.rows.verify(found, known))
            return
        receipt = quick_receipt(found, self.target)
        predicted = self._recalibrate(found, receipt)
        told = f"measured {receipt}, predicted {predicted:.3f} ms"
        self.team.progress.line(f"   {told}: the table's scale is now {self.rows.scale:.3f}")

    def _scale_between(self, seen: Sequence[Architecture], budget_ms: float) -> bool:
        """Set the table's scale between those of the nearest networks under and over the budget.

        Returns:
            whether there are such two, and it was not set so before.
        """
        took = self.journal.verified
        under = max((one for one in seen if took[one] <= budget_ms), key=took.__getitem__, default=None)
        over = min((one for one in seen if took[one] > budget_ms), key=took.__getitem__, default=None)
        if under is None or over is None:
            return False
        scales = [self.rows.scale * took[one] / self.rows.predict(one).ms for one in (under, over)]
        between = math.sqrt(math.prod(scales))
        if between in self.journal.rescaled:
            return False
        self.rows.scale = between
        self.journal.rescale(under, self.rows.predict(under).ms, between)
        return True

    def problem(self) -> Problem:
        """What is searched, at the table's present scale."""
        judge = self.team.judge
        return Problem(
            self.plan.space,
            self.rows,
            self.book,
            judge.importance,
            self.journal,
            seed=self.job.seed,
            remeasure=judge.measured_importance,
            progress=self.team.progress,
        )

    def _is_all(self, found: Architecture) -> bool:
        """Whether there is nothing larger."""
        return found == self.plan.space.largest

    def _recalibrate(self, found: Architecture, measured: Measurement) -> float:
        """Learn from a network that was measured, as the journal keeps it; what was predicted before."""
        predicted = self.rows.predict(found).ms
        self.journal.verify(found, predicted, measured, self.rows.verify(found, measured.median_ms))
        return predicted

    def _first_prediction(self, found: Architecture) -> Prediction:
        """What the table said of the network before measuring it corrected the scale."""
        now, first = self.rows.predict(found), self.journal.predicted[found]
        return Prediction(first, now.plus_minus_ms * first / now.ms)


def within(measured_ms: float, budget_ms: float) -> bool:
    """Whether a latency keeps the contract: not far over the budget, not far under it."""
    return (1 - SHORTFALL) * budget_ms <= measured_ms <= (1 + TOLERANCE) * budget_ms
