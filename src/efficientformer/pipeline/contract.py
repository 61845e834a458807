"""The contract: a network whose exported file, measured, takes no more than the budget and little less.

Search in a window of predicted latency a little under the budget; measure what it finds, before it is
trained; correct the table's scale and search again until the measurement lies within the contract. Then
train, export, measure the file itself, and begin again where that lies outside.
"""

from __future__ import annotations

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
from efficientformer.pipeline.prove import DRIFT, Met, prove, quick_receipt
from efficientformer.pipeline.scales import next_scale
from efficientformer.pipeline.team import Team
from efficientformer.search.journal import Journal
from efficientformer.search.policies.search import BY_WINDOW, Problem, conclude, go_on, search
from efficientformer.search.scores import ScoreBook
from efficientformer.search.space.costs import Window, predicted_ms
from efficientformer.search.steps import Found

ATTEMPTS = 4  # trainings of a network for one budget
_SHORT = 2  # of them at most so many that come out under the contract
_SEARCHES = 8  # before a network is trained, and as many more after each training
_LOW, _AIM, _HIGH = 0.95, 0.97, 0.99  # of the budget: where networks are looked for, as measurements scatter
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
            self._recalibrate(met.found, took, met.proof.untrained)
            if len(under) == _SHORT:
                break  # faster than asked, twice: another training is not worth the rest
        if under:
            nearest = max(under.values(), key=lambda one: one.proof.slimmed.latency.median_ms)
            progress.line(f"   no attempt came nearer the budget than {nearest.found.compact()}: it is kept")
            met = nearest if nearest is met else self._proved(nearest.search, folder)  # its file anew
            took = met.proof.slimmed.latency
            if took.median_ms <= limit:
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
        images, expected_ms = self.team.judge.images(found), self.journal.measured.untrained_ms(found)
        proof = prove(network, folder, self.plan, self.target, images, expected_ms)
        if proof.drift > DRIFT:
            told = f"{proof.untrained.median_ms:.3f} ms now, {expected_ms:.3f} in the search"
            progress.line(f"   the machine has changed its pace: the network, untrained, takes {told}")
        return Met(search, self._first_prediction(found), network, proof)

    def find(self, budget_ms: float) -> Found:
        """A network that, exported before it is trained and measured, lies within the contract.

        And not at its edge, for the next measurement will not be the same. Each measurement corrects the
        table's scale, which moves the window's place among the networks (`next_scale`). If no search comes
        within, the one measured nearest under the budget is taken, or else the nearest. Where the file of one
        that was trained took longer or less than with random weights, so are the others expected to.
        """
        self.rows.scale = self.journal.measured.scale
        window = Window(_LOW * budget_ms, _HIGH * budget_ms)
        tried = self.journal.found_in(window.low_ms, window.high_ms)  # the run was stopped since
        proofs = sum(self.journal.measured.proofs[one] for one in {one.architecture for one in tried})
        most = _SEARCHES * (1 + proofs)
        while True:
            if tried:
                last = tried[-1].architecture
                if last not in self.journal.measured.verified:
                    self._measure(last)
                if len(tried) >= most or self._will_do(last, budget_ms):
                    break
                scale = self._next_scale(tried, budget_ms)
                if scale is None:
                    break
                self.rows.scale = scale
                self.journal.rescale(last, self.rows.predict(last).ms, scale)
            tried.append(self._search(window, tried))

        def distance(one: Found) -> tuple[bool, float]:
            took_ms = self.journal.measured.file_ms(one.architecture)
            return took_ms > budget_ms, abs(took_ms - _AIM * budget_ms)

        return min(tried, key=distance)

    def _will_do(self, found: Architecture, budget_ms: float) -> bool:
        """Whether a network that was measured is worth training for a budget."""
        took_ms = self.journal.measured.file_ms(found)
        return took_ms <= budget_ms and (took_ms >= _LOW * budget_ms or self._is_all(found))

    def _next_scale(self, tried: Sequence[Found], budget_ms: float) -> float | None:
        """The table's scale to search at next; None if there is none left."""
        last = tried[-1].architecture
        searched = [(self._scale_of(one), self.journal.measured.file_ms(one.architecture)) for one in tried]
        own = self.rows.scale * self.journal.measured.file_ms(last) / self.rows.predict(last).ms
        return next_scale(searched, own, budget_ms)

    def _scale_of(self, found: Found) -> float:
        """The table's scale when something was found."""
        return self.rows.scale * found.predicted_ms / self.rows.predict(found.architecture).ms

    def _search(self, window: Window, tried: Sequence[Found]) -> Found:
        """What the policy finds in a window; those that are dear to run again go on from what they found."""
        problem = self.problem()
        smallest = min(self.plan.space.smallest_ones(), key=partial(predicted_ms, self.rows))
        if predicted_ms(self.rows, smallest) > window.high_ms:
            return conclude(self.job.policy, smallest, problem, window)
        before = [one for one in tried if one.searched]
        if before and self.job.policy in BY_WINDOW:
            return go_on(before[-1], problem, window, refine=_MOVES)
        return search(self.job.policy, problem, window, evaluations=self.job.evaluations, refine=_MOVES)

    def _measure(self, found: Architecture) -> None:
        """Measure a network; the table's scale is then by it."""
        receipt = quick_receipt(found, self.target)
        predicted = self._recalibrate(found, receipt)
        told = f"measured {receipt}, predicted {predicted:.3f} ms"
        self.team.progress.line(f"   {told}: the table's scale is now {self.rows.scale:.3f}")

    def problem(self) -> Problem:
        """What is searched, at the table's present scale."""
        judge = self.team.judge
        return Problem(
            self.plan.space,
            self.rows,
            self.book,
            judge.importance,
            judge.measured_importance,
            self.journal,
            seed=self.job.seed,
            progress=self.team.progress,
        )

    def _is_all(self, found: Architecture) -> bool:
        """Whether there is nothing larger."""
        return found == self.plan.space.largest

    def _recalibrate(
        self, found: Architecture, measured: Measurement, untrained: Measurement | None = None
    ) -> float:
        """Learn from a network that was measured, as the journal keeps it; what was predicted before.

        Of a trained network's file with what it took untrained, in the same run.
        """
        predicted, untrained_ms = self.rows.predict(found).ms, untrained.median_ms if untrained else None
        scale = self.rows.verify(found, measured.median_ms)
        self.journal.verify(found, predicted, measured, scale, untrained_ms)
        return predicted

    def _first_prediction(self, found: Architecture) -> Prediction:
        """What the table said of the network before measuring it corrected the scale."""
        now, first = self.rows.predict(found), self.journal.measured.predicted[found]
        return Prediction(first, now.plus_minus_ms * first / now.ms)


def within(measured_ms: float, budget_ms: float) -> bool:
    """Whether a latency keeps the contract: not far over the budget, not far under it."""
    return (1 - SHORTFALL) * budget_ms <= measured_ms <= (1 + TOLERANCE) * budget_ms
