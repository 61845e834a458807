"""`slim`: the main job, end to end. Every stage leaves its result in the run's folder and is not done twice.

efficientformer slim --data photos --budget 8ms
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.data.sources.folder import Split, scan
from efficientformer.errors import PromiseError
from efficientformer.files import read_json, write_json
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import LatencyTable, Prediction
from efficientformer.latency.target import Target
from efficientformer.model.checkpoint import save_model
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.folder import TABLE, RunFolder
from efficientformer.pipeline.job import AIM, TOLERANCE, Job
from efficientformer.pipeline.preflight import Plan, preflight
from efficientformer.pipeline.prove import Proof, Result, prove, quick_receipt, summarise
from efficientformer.pipeline.slim_training import Judge, learn_network, learn_supernet, rank, read_images
from efficientformer.progress import Progress
from efficientformer.search import slimming
from efficientformer.search.journal import Journal

ATTEMPTS = 4


class BudgetMissedError(PromiseError):
    """The exported file stayed over the budget after every attempt."""


def slim(job: Job, out: Path, table: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Go from images and a budget to a trained, exported and measured network; take up a stopped run.

    Args:
        job: what is asked for.
        out: the run's folder.
        table: a latency table to use and extend; one in the run's folder by default.
        progress: told how far it is.

    Returns:
        the summary, as written to `summary.json`.

    Raises:
        InputError: for images, a budget or a folder that do not fit.
        BudgetMissedError: if the exported file stays over the budget.
    """
    progress, folder = progress or Progress(), RunFolder(out)
    folder.check(job)
    if folder.file("summary.json").exists():
        progress.line(f"{out}: this run is done already")
        shutil.rmtree(folder.work(""), ignore_errors=True)
        return read_json(folder.file("summary.json"))
    split = scan(job.data, job.seed)
    with folder.locked():
        return _run(job, split, folder, table or folder.file(TABLE), progress)


def _run(job: Job, split: Split, folder: RunFolder, table: Path, progress: Progress) -> dict[str, Any]:
    begun = time.monotonic()
    progress.stage(f"1/6 measuring on {job.target}")
    plan, rows = preflight(job, folder, split, table, progress)
    folder.claim(job)
    write_json(folder.file("preflight.json"), plan.to_json())
    progress.stage(f"2/6 reading {sum(map(len, (split.train, split.search, split.val)))} images")
    images = read_images(job, split, folder, progress)
    progress.stage(f"3/6 training the supernet {plan.supernet}: {plan.space.largest}")
    supernet = learn_supernet(job, plan.space, images.train, folder, progress)
    judge = rank(job, supernet, images)
    unslimmed = None
    if job.train_unslimmed:
        progress.stage("3/6 training the unslimmed network too, for comparison")
        unslimmed = learn_network(job, judge, plan.space.largest, folder, progress)
    journal = Journal(folder.file("journal.jsonl"))
    found, network, proof = _meet(job, plan, judge, rows, journal, folder, progress)
    result = Result(found, _first_prediction(journal, rows, found), network, unslimmed, proof)
    summary = summarise(job, plan, split, judge, rows, result)
    summary["seconds"] = round(time.monotonic() - begun, 1)
    _warn_of_training(summary, progress)
    write_json(folder.file("architecture.json"), found.compact().to_json())
    save_model(folder.file("model.safetensors"), network)
    write_json(folder.file("summary.json"), summary)
    shutil.rmtree(folder.work(""), ignore_errors=True)
    rows.close()
    return summary


def _warn_of_training(summary: dict[str, Any], progress: Progress) -> None:
    before = summary["accuracy"]["slimmed, supernet weights"]["top1"]
    if summary["top1"] < before:
        told = (
            f"training the network found did not help: top-1 {before:.1%} before, {summary['top1']:.1%} after"
        )
        progress.line(f"   {told}; give it more --epochs")


def _meet(
    job: Job,
    plan: Plan,
    judge: Judge,
    rows: LatencyTable,
    journal: Journal,
    folder: RunFolder,
    progress: Progress,
) -> tuple[Architecture, EfficientFormer, Proof]:
    """Search, train, export and measure until the exported file meets the budget."""
    limit = (1 + TOLERANCE) * plan.budget_ms
    for _ in range(ATTEMPTS):
        progress.stage(f"4/6 slimming to {plan.budget_ms:.3f} ms")
        found = find(plan, judge, journal, rows, job.target, progress)
        progress.stage(f"5/6 training the network found: {found.compact()}")
        network = learn_network(job, judge, found, folder, progress)
        progress.stage("6/6 exporting, checking and measuring")
        proof = prove(network, folder, plan, job.target, judge.images.val)
        measured = proof.slimmed.latency
        progress.line(f"   {measured} against a budget of {plan.budget_ms:.3f} ms")
        if measured.median_ms <= limit:
            return found, network, proof
        _recalibrate(journal, rows, found, measured)
    raise BudgetMissedError(
        f"{folder.root}: the last exported file took {measured.median_ms:.3f} ms, over the budget of "
        f"{plan.budget_ms:.3f} ms, after {ATTEMPTS} attempts; is the machine busy? start the command again"
    )


def find(
    plan: Plan, judge: Judge, journal: Journal, rows: LatencyTable, target: Target, progress: Progress
) -> Architecture:
    """Search for a network whose exported file, measured before it is trained, meets the budget.

    Each measurement recalibrates the table, which moves the point of the search's path where the budget is
    met, down or up, until that point has itself been measured.
    """
    goal_ms, rows.scale = AIM * plan.budget_ms, journal.scale

    def predict(architecture: Architecture) -> float:
        rows.fill([architecture])
        return rows.predict(architecture).ms

    def fits(architecture: Architecture) -> bool:
        known = journal.verified.get(architecture)
        return (predict(architecture) if known is None else known) <= goal_ms

    while True:
        found = slimming.slim(plan.space, judge.importance, fits, predict, judge.score, journal, progress)
        if found in journal.verified:
            return found
        receipt = quick_receipt(found, target)
        _recalibrate(journal, rows, found, receipt)
        told = f"measured {receipt}, predicted {journal.predicted[found]:.3f} ms"
        progress.line(f"   {told}: the table's scale is now {rows.scale:.3f}")


def _recalibrate(journal: Journal, rows: LatencyTable, found: Architecture, measured: Measurement) -> None:
    """Learn from a network that was measured; the journal keeps it, so that a resumed search knows it too."""
    predicted = rows.predict(found).ms
    journal.verify(found, predicted, measured, rows.verify(found, measured.median_ms))


def _first_prediction(journal: Journal, rows: LatencyTable, found: Architecture) -> Prediction:
    """What the table said of the network before measuring it corrected the scale."""
    now, first = rows.predict(found), journal.predicted[found]
    return Prediction(first, now.plus_minus_ms * first / now.ms)
