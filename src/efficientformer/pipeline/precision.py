"""In which precision a network for a budget is deployed: one is found for each, and their files are judged.

Both latency and loss depend on the precision: in int8 a larger network may meet the same budget, and lose
some of its accuracy in exchange. So for each precision the search finds a network for the budget with a table
of that precision, all from the one supernet. The networks are exported with their inherited weights,
calibrated on training images, and the files are scored on the images set apart for the search.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError, PromiseError
from efficientformer.evaluation.score import Score
from efficientformer.files import JsonLines
from efficientformer.pipeline.contract import Contract
from efficientformer.pipeline.job import TOLERANCE
from efficientformer.pipeline.prove import export_checked
from efficientformer.search.steps import Found

FORMAT = "efficientformer.precisions/1"
PRECISIONS = "precisions.jsonl"
"""What was compared for each budget; in the run's folder."""


@dataclass(frozen=True)
class Candidate:
    """What one precision comes to for a budget, before anything is trained.

    Attributes:
        precision: of the file.
        architecture: the network found, identities in place.
        predicted_ms: what the table said of it before it was measured.
        measured_ms: its median, exported with random weights.
        top1: the file's share of the search's images that are right, with inherited weights.
        loss: its mean cross-entropy on them.
        images: how many there are; 0 if there is no file to judge.
        error: why there is none.
    """

    precision: str
    architecture: Architecture
    predicted_ms: float
    measured_ms: float
    top1: float = 0.0
    loss: float = math.inf
    images: int = 0
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        plain = {**dataclasses.asdict(self), "architecture": self.architecture.to_json()}
        return {**plain, "error": self.error or None, "loss": self.loss if self.images else None}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Candidate:
        """The reverse of `to_json`."""
        fields: dict[str, Any] = document | {
            "architecture": Architecture.from_json(document["architecture"]),
            "loss": math.inf if document["loss"] is None else document["loss"],
            "error": document["error"] or "",
        }
        return cls(**fields)

    def __str__(self) -> str:
        if self.error:
            return f"{self.precision} left out: {self.error}"
        score = f"loss {self.loss:.4f}, top-1 {self.top1:.2%} of {self.images} images"
        return f"{self.precision} {score}, {self.measured_ms:.3f} ms (predicted {self.predicted_ms:.3f})"


class Decisions:
    """What was compared for each budget, and what was taken; a file of JSON lines.

    Args:
        path: the file; it need not exist yet.

    Raises:
        InputError: if the file is of something else, or a whole line of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self._by_budget: dict[float, list[Candidate]] = {}
        try:
            head, *lines = self._lines.read() or [{"format": FORMAT}]
            if head["format"] != FORMAT:
                raise ValueError(f"no {FORMAT}")
            for line in lines:
                self._by_budget[line["budget_ms"]] = [Candidate.from_json(one) for one in line["candidates"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it to compare precisions anew") from None

    def of(self, budget_ms: float) -> list[Candidate]:
        """What was compared for a budget last, the one that was taken first; empty if nothing was."""
        return self._by_budget.get(budget_ms, [])

    def add(self, budget_ms: float, candidates: Sequence[Candidate]) -> None:
        """Write a comparison, the one that is taken first."""
        self._by_budget[budget_ms] = list(candidates)
        compared = [one.to_json() for one in candidates]
        line = {"budget_ms": budget_ms, "taken": candidates[0].precision, "candidates": compared}
        self._lines.append([*([{"format": FORMAT}] if self._lines.empty else []), line])


def choose(contracts: Sequence[Contract], budget_ms: float, decisions: Decisions) -> Contract:
    """The contract of the precision that a budget's network is best deployed in; kept, so decided once.

    A decision stands as long as the measurement of its network is believed: after a budget that was missed it
    is taken anew.

    Args:
        contracts: one a precision; some network of one at least meets the budget.
        budget_ms: the budget.
        decisions: so far.

    Raises:
        PromiseError: if the file of none computes what its network does.
    """
    by_precision = {one.target.precision: one for one in contracts}
    known = decisions.of(budget_ms)
    if not known or known[0].architecture not in by_precision[known[0].precision].journal.measured.verified:
        able = [one for one in contracts if one.plan.least.median_ms <= budget_ms]
        known = ranked([_candidate(one, budget_ms) for one in able], budget_ms)
        decisions.add(budget_ms, known)
    taken, *others = known
    told = "; ".join(map(str, others)) or "no other meets the budget"
    contracts[0].team.progress.line(f"   taken: {taken}; {told}")
    return by_precision[taken.precision]


def ranked(candidates: Sequence[Candidate], budget_ms: float) -> list[Candidate]:
    """Candidates, the best first: within the budget, then by loss, of equal ones by top-1, then in order.

    Raises:
        PromiseError: if none has a file.
    """

    def place(one: Candidate) -> tuple[bool, bool, float, float]:
        return bool(one.error), one.measured_ms > (1 + TOLERANCE) * budget_ms, one.loss, -one.top1

    best, *others = sorted(candidates, key=place)
    if best.error:
        raise PromiseError("; ".join(map(str, (best, *others))))
    return [best, *others]


def _candidate(contract: Contract, budget_ms: float) -> Candidate:
    """Search in one precision, and judge the file of what is found."""
    precision, journal = contract.target.precision, contract.journal
    contract.team.progress.stage(f"4/6 slimming to {budget_ms:.3f} ms in {precision}")
    found: Found = contract.find(budget_ms)
    network = found.architecture
    plain = Candidate(
        precision, network, journal.measured.predicted[network], journal.measured.verified[network]
    )
    with tempfile.TemporaryDirectory(prefix="efficientformer-") as folder:
        path = Path(folder) / contract.target.file_name("candidate")
        try:
            score = _score(network, contract, path)
        except PromiseError as error:
            return dataclasses.replace(plain, error=str(error).replace(f"{folder}/", ""))
    return dataclasses.replace(plain, top1=score.top1, loss=score.loss, images=score.images)


def _score(network: Architecture, contract: Contract, path: Path) -> Score:
    """Of the file of a network with inherited weights, on the search's images."""
    judge, target = contract.team.judge, contract.target
    images = judge.images(network)
    # Whether its classes are PyTorch's is not asked: how many of them are right is what decides.
    export_checked(judge.inherited(network), path, target, images.search, images.train, classes_agree=False)
    return judge.of_file(path, target, images.search, network.input_size[0])
