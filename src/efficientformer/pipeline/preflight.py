"""What can be known before training: the space, its least and greatest latency, if budgets can be met."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.data.sources.folder import Split
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.bench import time_entries
from efficientformer.latency.budget import Budget
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import Fit, LatencyTable
from efficientformer.latency.table.interpolate import sub_grid
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.progress import Progress
from efficientformer.search.space import SUPERNETS, SearchSpace

ROOM = 1.6  # an automatically chosen supernet is at least so many times as slow as the budget


@dataclass(frozen=True)
class Plan:
    """What the run will do.

    Attributes:
        supernet: the space's name.
        space: what is searched.
        greatest: receipt of the unslimmed network.
        least: receipt of the smallest network.
        fit: the latency table's calibration to this space.
        images: digest of the files and their parts.
    """

    supernet: str
    space: SearchSpace
    greatest: Measurement
    least: Measurement
    fit: Fit
    images: str

    def budget_ms(self, budget: Budget) -> float:
        """A budget in milliseconds."""
        return budget.resolve(self.greatest.median_ms)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "space": self.space.to_json(),
            "greatest": self.greatest.to_json(),
            "least": self.least.to_json(),
            "fit": dataclasses.asdict(self.fit),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        fields: dict[str, Any] = document | {
            "space": SearchSpace.from_json(document["space"]),
            "greatest": Measurement.from_json(document["greatest"]),
            "least": Measurement.from_json(document["least"]),
            "fit": Fit(**document["fit"]),
        }
        return cls(**fields)


def preflight(
    job: Job, folder: RunFolder, split: Split, table: Path, progress: Progress
) -> tuple[Plan, LatencyTable]:
    """Choose the supernet, fill and calibrate the latency table, hold the budget against what is possible.

    Raises:
        InputError: if the budget is below what the smallest network takes, the table is another machine's, or
            the images are no longer those the run began with.
    """
    rows, path = LatencyTable(table, job.target, may_interpolate=True), folder.file("preflight.json")
    if path.exists():
        plan = Plan.from_json(read_json(path))
        if plan.images != split.digest():
            raise InputError(
                f"{job.data}: its files changed since the run in {folder.root} began; give another --out"
            )
        rows.fit = plan.fit
        _check_budgets(job, plan, progress)
        return plan, rows
    rows.check_machine(progress.line)
    names = SUPERNETS if job.supernet == "auto" else (job.supernet,)
    for name in names:
        plan = _survey(job, name, split, rows, progress)
        fixed = [plan.budget_ms(budget) for budget in job.budgets if budget.share is None]
        if not fixed or plan.greatest.median_ms >= ROOM * max(fixed) or plan.least.median_ms > min(fixed):
            break
    _check_budgets(job, plan, progress)
    return plan, rows


def _survey(job: Job, name: str, split: Split, rows: LatencyTable, progress: Progress) -> Plan:
    """Measure a space: rows for its calibration networks, then those networks whole."""
    space = job.space(name, len(split.classes))
    networks = space.between()
    _fill(rows, space, networks, progress)
    receipts = measure_untrained(networks, job.target)
    fit = rows.calibrate(receipts)
    greatest, least = receipts[networks[0]], receipts[networks[-1]]
    progress.line(f"   supernet {name}: {least.median_ms:.3f} to {greatest.median_ms:.3f} ms possible")
    progress.line(
        f"   calibrated to {len(networks)} networks, relative error {fit.residual:.1%} (root mean square)"
    )
    return Plan(name, space, greatest, least, fit, split.digest())


def _fill(
    rows: LatencyTable, space: SearchSpace, networks: Sequence[Architecture], progress: Progress
) -> None:
    """Rows for every layer of the space: of many widths every other is measured, the rest interpolated."""

    def told(done: int, total: int) -> None:
        progress.update(done, total, "layers measured")

    rows.fill(networks, told)
    rows.fill_layers(sub_grid(space.layers(), every=2, roles=("stem", "embed", "block", "head")), told)
    rows.fill_layers(space.layers(), told)


def _check_budgets(job: Job, plan: Plan, progress: Progress) -> None:
    for budget in job.budgets:
        if plan.budget_ms(budget) < plan.least.median_ms:
            smallest, least_ms = plan.space.smallest().compact(), plan.least.median_ms
            raise InputError(
                f"budget {budget}: below what the smallest network takes here, {plan.least} on "
                f"{job.target} ({smallest}); ask for at least {math.ceil(1000 * least_ms) / 1000:.3f}ms "
                "or give a smaller --input-size"
            )
        if plan.greatest.median_ms <= plan.budget_ms(budget):
            progress.line(f"   the unslimmed network meets {budget} already: it will be trained as it is;")
            progress.line("   a larger --supernet or --input-size would make use of the rest")


def measure_untrained(networks: tuple[Architecture, ...], target: Target) -> dict[Architecture, Measurement]:
    """Export networks with random weights and time them in one interleaved run."""
    entries = {
        str(index): (untrained(one.compact()), (one.in_channels, *one.input_size))
        for index, one in enumerate(networks)
    }
    receipts = time_entries(entries, target, seconds=1.5)
    named = zip(networks, receipts.values(), strict=True)
    return {one: dataclasses.replace(receipt, model=str(one)) for one, receipt in named}
