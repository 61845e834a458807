"""What can be known before training: the space, its least and greatest latency, the budget in ms."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.data.sources.folder import Split
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.bench import time_entries
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import Fit, LatencyTable
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import AIM, Job
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
        fit: the latency table's calibration to this space.
        images: digest of the files and their parts.
    """

    supernet: str
    space: SearchSpace
    budget_ms: float
    greatest: Measurement
    least: Measurement
    fit: Fit
    images: str

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
    rows, path = LatencyTable(table, job.target), folder.file("preflight.json")
    if path.exists():
        plan = Plan.from_json(read_json(path))
        if plan.images != split.digest():
            raise InputError(
                f"{job.data}: its files changed since the run in {folder.root} began; give another --out"
            )
        rows.fit = plan.fit
        return plan, rows
    names = SUPERNETS if job.supernet == "auto" else (job.supernet,)
    for name in names:
        plan = _survey(job, name, split, rows, progress)
        room = job.budget.share or plan.greatest.median_ms >= ROOM * plan.budget_ms
        if room or plan.least.median_ms > plan.budget_ms:
            break
    _check_budget(job, plan)
    if plan.greatest.median_ms <= plan.budget_ms:
        progress.line("   the unslimmed network meets this budget already: it will be trained as it is;")
        progress.line("   a larger --supernet or --input-size would make use of the rest")
    return plan, rows


def _survey(job: Job, name: str, split: Split, rows: LatencyTable, progress: Progress) -> Plan:
    """Measure a space: rows for its calibration networks, then those networks whole."""
    space = supernet_space(name, input_size=job.input_size, num_classes=len(split.classes))
    networks = space.between()
    rows.fill(networks, lambda done, total: progress.update(done, total, "layers measured"))
    receipts = measure_untrained(networks, job.target)
    fit = rows.calibrate(receipts)
    greatest, least = receipts[networks[0]], receipts[networks[-1]]
    progress.line(f"   supernet {name}: {least.median_ms:.3f} to {greatest.median_ms:.3f} ms possible")
    progress.line(
        f"   calibrated to {len(networks)} networks, relative error {fit.residual:.1%} (root mean square)"
    )
    budget_ms = job.budget.resolve(greatest.median_ms)
    return Plan(name, space, budget_ms, greatest, least, fit, split.digest())


def _check_budget(job: Job, plan: Plan) -> None:
    least_ms = plan.least.median_ms / AIM
    if plan.budget_ms < least_ms:
        smallest = plan.space.smallest().compact()
        raise InputError(
            f"budget {job.budget}: below what the smallest network takes here, {plan.least} on "
            f"{job.target} ({smallest}); ask for at least {math.ceil(1000 * least_ms) / 1000:.3f}ms "
            "or give a smaller --input-size"
        )


def measure_untrained(networks: tuple[Architecture, ...], target: Target) -> dict[Architecture, Measurement]:
    """Export networks with random weights and time them in one interleaved run."""
    entries = {
        str(index): (untrained(one.compact()), (one.in_channels, *one.input_size))
        for index, one in enumerate(networks)
    }
    receipts = time_entries(entries, target, seconds=1.5)
    named = zip(networks, receipts.values(), strict=True)
    return {one: dataclasses.replace(receipt, model=str(one)) for one, receipt in named}
