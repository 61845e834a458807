"""What can be known before training: the space, its least and greatest latency, if budgets can be met."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.data.sources.folder import Split
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_json
from efficientformer.latency.bench import time_entries
from efficientformer.latency.budget import Budget
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import Fit, LatencyTable
from efficientformer.latency.table.interpolate import to_measure
from efficientformer.latency.table.rows import RowsDone
from efficientformer.latency.target import Target
from efficientformer.latency.trial import check_usable
from efficientformer.latency.untrained import untrained
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.progress import Progress
from efficientformer.search.space.search_space import SUPERNETS, SearchSpace

Receipts = dict[Architecture, Measurement]
PREFLIGHT = "preflight.json"
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
        reference_ms: of the latency table the fit is of, as `LatencyTable.reference_ms` tells it from others.
        images: digest of the files and their parts.
    """

    supernet: str
    space: SearchSpace
    greatest: Measurement
    least: Measurement
    fit: Fit
    reference_ms: float | None
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
        document = {"reference_ms": None, **document}  # runs of version 0.1 lack it
        fields: dict[str, Any] = document | {
            "space": SearchSpace.from_json(document["space"]),
            "greatest": Measurement.from_json(document["greatest"]),
            "least": Measurement.from_json(document["least"]),
            "fit": Fit.from_json(document["fit"]),
        }
        return cls(**fields)


def preflight(
    job: Job, folder: RunFolder, split: Split, table: Path, progress: Progress
) -> list[tuple[Plan, LatencyTable]]:
    """Choose the supernet, fill and calibrate the latency table, hold the budget against what is possible.

    Returns:
        the plan and the rows of each of the job's targets, its own first. They have the space in common.

    Raises:
        InputError: if a precision cannot be used here, the budget is below what the smallest network takes,
            the table is another machine's, or the images are no longer those the run began with.
    """
    job.space(job.supernet if job.supernet != "auto" else SUPERNETS[0], len(split.classes))  # or an error
    begun = folder.file(PREFLIGHT).exists()  # it is written last
    for target in () if begun else job.targets:
        check_usable(target)
    tables = [LatencyTable(table, target) for target in job.targets]
    for rows in tables:
        rows.check_machine(progress.line)
    if begun:
        plans = [Plan.from_json(read_json(folder.file(job.named(PREFLIGHT, one)))) for one in job.targets]
        if plans[0].images != split.digest():
            raise InputError(
                f"{job.data}: its files changed since the run in {folder.root} began; give another --out"
            )
        _check_budgets(job, plans, progress)
        for plan, rows in zip(plans, tables, strict=True):
            if plan.reference_ms not in (None, rows.reference_ms):
                raise InputError(
                    f"{table}: is not the latency table that the run in {folder.root} began with; "
                    "give the same --table, or another --out"
                )
            fill(rows, plan.space, progress)
            rows.fit = plan.fit
        return list(zip(plans, tables, strict=True))
    space, name, own = _chosen(job, split, progress)
    measured = [own, *(_in_another(target, own, progress) for target in job.targets[1:])]
    plans = [_plan(name, space, receipts, split) for receipts in measured]
    _check_budgets(job, plans, progress)
    fits = [_calibrated(*one, progress) for one in zip(tables, repeat(space), measured)]
    return [
        (dataclasses.replace(plan, fit=fit, reference_ms=rows.reference_ms), rows)
        for plan, rows, fit in zip(plans, tables, fits, strict=True)
    ]


def write_plans(job: Job, folder: RunFolder, plans: Sequence[Plan]) -> None:
    """Keep the plans of all targets; the own one's is last, for it says that all are there."""
    for plan, target in reversed([*zip(plans, job.targets, strict=True)]):
        write_json(folder.file(job.named(PREFLIGHT, target)), plan.to_json())


def _plan(name: str, space: SearchSpace, receipts: Receipts, split: Split) -> Plan:
    """What is possible, before the table is calibrated."""
    greatest, *_ = whole = list(receipts.values())
    least = min(whole, key=lambda receipt: receipt.median_ms)
    return Plan(name, space, greatest, least, Fit(), None, split.digest())


def _in_another(target: Target, own: Receipts, progress: Progress) -> Receipts:
    """Receipts of the same networks in another precision."""
    receipts = measure_untrained(tuple(own), target)
    times = [receipt.median_ms for receipt in receipts.values()]
    progress.line(f"   in {target.precision}: {min(times):.3f} to {max(times):.3f} ms")
    return receipts


def _chosen(job: Job, split: Split, progress: Progress) -> tuple[SearchSpace, str, Receipts]:
    """The space that is searched, its name, and receipts of whole networks of it, the largest first."""
    names = SUPERNETS if job.supernet == "auto" else (job.supernet,)
    fixed = [budget.resolve(1.0) for budget in job.budgets if budget.share is None]
    for name in names:
        space = job.space(name, len(split.classes))
        networks = tuple(dict.fromkeys((*space.between(), *space.smallest_ones())))
        receipts = measure_untrained(networks, job.target)
        greatest, *_ = times = [receipt.median_ms for receipt in receipts.values()]
        progress.line(f"   supernet {name}: {min(times):.3f} to {greatest:.3f} ms possible")
        if not fixed or greatest >= ROOM * max(fixed) or min(times) > min(fixed):
            break
    return space, name, receipts


def fill(rows: LatencyTable, space: SearchSpace, progress: Progress) -> None:
    """Rows for every layer of a space: every other width is measured, the rest interpolated if it can be."""

    def told(what: str) -> RowsDone:
        return lambda done, total: progress.update(done, total, what)

    whole = [layer for one in space.between() for layer in one.layers()]
    rows.fill_layers([*whole, *to_measure(space.layers(), every=2)], told("layers measured"))
    rows.may_interpolate = True
    rows.fill_layers(space.layers(), told("more layers, with too few neighbours to interpolate by"))


def _calibrated(rows: LatencyTable, space: SearchSpace, receipts: Receipts, progress: Progress) -> Fit:
    """The table's fit to this space, once it is filled: its own, if `table build` made it for the space."""
    fill(rows, space, progress)
    noted = rows.noted("space")
    if noted and SearchSpace.from_json(noted["space"]) == space:
        fit, count = rows.fit, noted["networks"]
    else:
        fit, count = rows.calibrate(receipts, keep=noted is None), len(receipts)
    progress.line(f"   calibrated to {count} networks, relative error {fit.residual:.1%} (root mean square)")
    return fit


def _check_budgets(job: Job, plans: Sequence[Plan], progress: Progress) -> None:
    """Refuse a budget that no precision can meet; shares are of the unslimmed network in the target's own."""
    least = min((plan.least for plan in plans), key=lambda receipt: receipt.median_ms)
    for budget in job.budgets:
        budget_ms = plans[0].budget_ms(budget)
        if budget_ms < least.median_ms:
            raise InputError(
                f"budget {budget}: below what the smallest network takes here, {least} on {least.target} "
                f"({least.model}); ask for at least {math.ceil(1000 * least.median_ms) / 1000:.3f}ms "
                "or give a smaller --input-size"
            )
        for plan, target in zip(plans, job.targets, strict=True):
            where = f" in {target.precision}" if len(plans) > 1 else ""
            if budget_ms < plan.least.median_ms:
                progress.line(f"   no network meets {budget}{where}: the least is {plan.least}")
            if plan.greatest.median_ms <= budget_ms:
                progress.line(f"   the unslimmed network meets {budget}{where} already: it may be trained")
                progress.line("   as it is; a larger --supernet or --input-size would make use of the rest")


def measure_untrained(networks: tuple[Architecture, ...], target: Target) -> Receipts:
    """Export networks with random weights and time them in one interleaved run."""
    entries = {
        str(index): (untrained(one.compact()), (one.in_channels, *one.input_size))
        for index, one in enumerate(networks)
    }
    receipts = time_entries(entries, target, seconds=1.5)
    named = zip(networks, receipts.values(), strict=True)
    return {one: dataclasses.replace(receipt, model=str(one)) for one, receipt in named}
