"""What can be known before training: the space, its least and greatest latency, the budget in ms."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.artefact import network_runner, untrained
from efficientformer.latency.measure import Measurement, measure
from efficientformer.latency.table import LatencyTable
from efficientformer.latency.target import Target
from efficientformer.pipeline.job import Job, RunFolder
from efficientformer.progress import Progress
from efficientformer.search.space import SUPERNETS, SearchSpace, supernet_space

ROOM = 1.6  # an automatically chosen supernet is at least so many times as slow as the budget


@dataclass(frozen=True)
class Plan:
    """What the run will do.

    Attributes:
        supernet: the space's name.
        space: what is searched.
        budget_ms: the budget.
        greatest: receipt of the unslimmed network.
        least: receipt of the smallest network.
    """

    supernet: str
    space: SearchSpace
    budget_ms: float
    greatest: Measurement
    least: Measurement

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "supernet": self.supernet,
            "space": self.space.to_json(),
            "budget_ms": self.budget_ms,
            "greatest": self.greatest.to_json(),
            "least": self.least.to_json(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        return cls(
            document["supernet"],
            SearchSpace.from_json(document["space"]),
            document["budget_ms"],
            Measurement.from_json(document["greatest"]),
            Measurement.from_json(document["least"]),
        )


def preflight(
    job: Job, folder: RunFolder, num_classes: int, table: Path, progress: Progress
) -> tuple[Plan, LatencyTable]:
    """Choose the supernet, fill and calibrate the latency table, hold the budget against what is possible.

    Raises:
        InputError: if the budget is below what the smallest network takes, or the table is another machine's.
    """
    path = folder.file("preflight.json")
    if path.exists():
        plan = Plan.from_json(read_json(path))
        return plan, LatencyTable(table, job.target, _scope(plan.space))
    for name in SUPERNETS if job.supernet == "auto" else (job.supernet,):
        space = supernet_space(name, input_size=job.input_size, num_classes=num_classes)
        rows = LatencyTable(table, job.target, _scope(space))
        networks = space.between()
        rows.fill(networks, lambda done, total: progress.update(done, total, "layers measured"))
        receipts = measure_untrained(networks, job.target)
        rows.calibrate(receipts)
        greatest, least = receipts[networks[0]], receipts[networks[-1]]
        budget_ms = job.budget.resolve(greatest.median_ms)
        progress.line(f"   supernet {name}: {least.median_ms:.3f} to {greatest.median_ms:.3f} ms possible")
        if job.budget.share or greatest.median_ms >= ROOM * budget_ms or least.median_ms > budget_ms:
            break
        if name != SUPERNETS[-1] and job.supernet == "auto":
            rows.close()
    _check_budget(job, budget_ms, least, networks[-1])
    plan = Plan(name, space, budget_ms, greatest, least)
    return plan, rows


def _scope(space: SearchSpace) -> str:
    return str(space.largest)


def _check_budget(job: Job, budget_ms: float, least: Measurement, smallest: Architecture) -> None:
    if budget_ms < least.median_ms:
        compact = smallest.compact()
        raise InputError(
            f"budget {job.budget}: below what the smallest network takes here, {least} on {job.target} "
            f"({compact}); ask for at least {least.median_ms * 1.02:.2g}ms or a smaller --input-size"
        )


def measure_untrained(networks: tuple[Architecture, ...], target: Target) -> dict[Architecture, Measurement]:
    """Export networks with random weights and time them in one interleaved run."""
    runners = {
        str(index): network_runner(untrained(one.compact()), target, (one.in_channels, *one.input_size))
        for index, one in enumerate(networks)
    }
    receipts = measure(runners, target, seconds=1.5)
    named = zip(networks, receipts.values(), strict=True)
    return {one: dataclasses.replace(receipt, model=str(one)) for one, receipt in named}
