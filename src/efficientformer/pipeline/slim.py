"""`slim`: the main job, end to end. Every stage leaves its result in the run's folder and is not done twice.

efficientformer slim --data photos --budget 8ms
efficientformer slim --data photos --budget 4ms,8ms,12ms
torchrun --nproc-per-node 2 -m efficientformer.cli slim --data photos --budget 8ms
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from efficientformer.data.sources.folder import Split, scan
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_json
from efficientformer.latency.budget import Budget
from efficientformer.latency.table import LatencyTable
from efficientformer.model.checkpoint import load_model, save_model
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.contract import BudgetMissedError, Contract
from efficientformer.pipeline.folder import TABLE, RunFolder
from efficientformer.pipeline.front import write_front
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.precision import PRECISIONS, Decisions, choose
from efficientformer.pipeline.preflight import PREFLIGHT, Plan, preflight, write_plans
from efficientformer.pipeline.prove import Asked, summarise
from efficientformer.pipeline.slim_training import SUPERNET, Pictures, learn_supernet, rank
from efficientformer.pipeline.team import Team
from efficientformer.progress import Progress
from efficientformer.search.journal import Journal, tell
from efficientformer.search.scores import ScoreBook
from efficientformer.search.space.costs import Listed, Remembered
from efficientformer.search.supernet.near import Near
from efficientformer.training.distributed import World, joined

SEARCH = "search.jsonl"
"""The whole search of a run's folder, for all its budgets; `journal.jsonl` is one network's part of it.

Another precision's is called after it: `search-int8.jsonl`."""

__all__ = ["BudgetMissedError", "slim", "slim_to_budgets"]


def slim(job: Job, out: Path, table: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """`slim_to_budgets` for a job of one budget; the summary, empty in all processes but the first."""
    if len(job.budgets) != 1:
        raise InputError(f"{len(job.budgets)} budgets: slim_to_budgets takes several")
    return next(iter(slim_to_budgets(job, out, table, progress)), {})


def slim_to_budgets(
    job: Job, out: Path, table: Path | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Go from images and budgets to trained, exported and measured networks; take up a stopped run.

    Args:
        job: what is asked for.
        out: the run's folder; of several budgets each has a folder in it, and `front.json` compares them.
        table: a latency table to use and extend; one in the run's folder by default.
        progress: told how far it is.

    Returns:
        each budget's summary, in their order; empty in the processes that torchrun started beside the first.

    Raises:
        InputError: for images, a budget or a folder that do not fit.
        BudgetMissedError: if an exported file stays over its budget.
    """
    with joined(job.device) as world:
        progress = (progress or Progress()) if world.main else Progress(None)
        folder = RunFolder(out)
        folder.check(job)
        if summaries := _finished(job, folder):
            progress.line(f"{out}: this run is done already")
            if not world.main:
                return []
            _finish(job, folder)  # it may have been stopped just before
            return summaries
        split = scan(job.data, job.seed)
        with folder.locked() if world.main else nullcontext():
            return _run(job, split, folder, table or folder.file(TABLE), world, progress)


def place(folder: RunFolder, budget: Budget) -> RunFolder:
    """Where one budget's network goes: the run's folder, if it was begun for it alone, or one in it."""
    begun = read_json(folder.file("job.json"))["budget"]
    if begun == str(budget):
        return folder
    return RunFolder(folder.file(str(budget).replace("%", "-percent")))


def _finished(job: Job, folder: RunFolder) -> list[dict[str, Any]]:
    """The summaries, if every budget has its own already."""
    if not folder.file("job.json").exists():
        return []
    files = [place(folder, budget).file("summary.json") for budget in job.budgets]
    if not all(file.exists() for file in files):
        return []
    return [read_json(file) for file in files]


def _finish(job: Job, folder: RunFolder) -> None:
    """Compare the budgets' networks, and delete what only an unfinished run needs."""
    write_front(folder)
    for one in (folder, *(place(folder, budget) for budget in job.budgets)):
        shutil.rmtree(one.work(""), ignore_errors=True)


def _run(
    job: Job, split: Split, folder: RunFolder, table: Path, world: World, progress: Progress
) -> list[dict[str, Any]]:
    with prepared(job, split, folder, table, world, progress) as contracts:
        if not contracts:
            return []
        own = contracts[0]
        unslimmed = _unslimmed(own, folder) if job.train_unslimmed else None
        asked = [
            Asked(one, own.plan.budget_ms(one), job, own.plan.space.largest, split, unslimmed)
            for one in job.budgets
        ]
        places = [place(folder, budget) for budget in job.budgets]
        decisions = Decisions(folder.file(PRECISIONS))
        summaries = [
            _one_budget(contracts, one, its, decisions) for one, its in zip(asked, places, strict=True)
        ]
        _finish(job, folder)
        return summaries


def _unslimmed(contract: Contract, folder: RunFolder) -> EfficientFormer:
    """The unslimmed network trained by the same recipe, once for all budgets."""
    path = folder.file("unslimmed.safetensors")
    if not path.exists():
        contract.team.progress.stage("3/6 training the unslimmed network too, for comparison")
        save_model(path, contract.team.learn(contract.plan.space.largest, folder))
    return load_model(path)


@contextlib.contextmanager
def prepared(
    job: Job, split: Split, folder: RunFolder, table: Path, world: World, progress: Progress
) -> Generator[tuple[Contract, ...], None, None]:
    """Measure, read the images, train the supernet: all that comes before a search.

    A contract for each of the job's targets, its own first; none in the processes beside the first, once that
    has left the context.
    """
    progress.stage(f"1/6 measuring on {', '.join(map(str, job.targets))}")
    known: list[tuple[Plan, LatencyTable]] = []
    if world.main:
        known = preflight(job, folder, split, table, progress)
        if not folder.file("job.json").exists():
            folder.claim(job)
        write_plans(job, folder, [plan for plan, _ in known])
    world.wait()
    plan = Plan.from_json(read_json(folder.file(PREFLIGHT)))
    progress.stage(f"2/6 reading {sum(map(len, (split.train, split.search, split.val)))} images")
    pictures = Pictures(job, split, folder, world, progress)
    images = pictures.decode_all()
    trained = folder.file(SUPERNET).exists()
    does = "the supernet is trained already," if trained else "training the supernet"
    progress.stage(f"3/6 {does} {plan.supernet}: {plan.space.largest}")
    near = _near(job, plan, known, world) if job.sampling.paths == "near" else None
    supernet = learn_supernet(job, plan.space, images.train, folder, progress, world, near)
    team = Team(job, rank(job, supernet, pictures, folder, world), world, progress)
    with team.gathered() as decides:
        yield _contracts(job, folder, known, team) if decides else ()
    for _, rows in known:
        rows.close()


def _near(job: Job, plan: Plan, known: Sequence[tuple[Plan, LatencyTable]], world: World) -> Near:
    """What draws networks near the budgets, by the first process's tables of all the job's targets."""
    layers = plan.space.layers()
    told = json.dumps([Listed.of(rows, layers).to_json() for _, rows in known])
    costs = [Remembered(Listed.from_json(one)) for one in json.loads(world.share(told))]
    return Near(plan.space, tuple(costs), tuple(plan.budget_ms(one) for one in job.budgets))


def _contracts(
    job: Job, folder: RunFolder, known: Sequence[tuple[Plan, LatencyTable]], team: Team
) -> tuple[Contract, ...]:
    """One a target: a table and a journal each, and the scores, which are of float32 weights, for all."""
    digest = hashlib.sha256(folder.file(SUPERNET).read_bytes()).hexdigest()
    of = f"supernet {digest[:16]}, images {known[0][0].images}, seed {job.seed}"
    book = ScoreBook(folder.file("scores.jsonl"), team.score_many, of=of)
    return tuple(
        Contract(job, plan, rows, book, Journal(folder.file(job.named(SEARCH, rows.target))), team)
        for plan, rows in known
    )


def _one_budget(
    contracts: Sequence[Contract], asked: Asked, folder: RunFolder, decisions: Decisions
) -> dict[str, Any]:
    """One budget's network with its summary; read, where it is done."""
    path, begun = folder.file("summary.json"), time.monotonic()
    if path.exists():
        return read_json(path)
    contract, compared = contracts[0], []
    if len(contracts) > 1:
        contract = choose(contracts, asked.budget_ms, decisions)
        compared = [one.to_json() for one in decisions.of(asked.budget_ms)]
    met = contract.meet(asked.budget_ms, folder)
    summary = summarise(asked, met, contract.team.judge, contract.rows, folder)
    summary["precisions"] = compared
    summary["seconds"] = round(time.monotonic() - begun, 1)
    _warn_of_training(summary, contract.team.progress)
    write_json(folder.file("architecture.json"), met.found.compact().to_json())
    save_model(folder.file("model.safetensors"), met.network)
    tell(contract.journal, met.search, folder.file("journal.jsonl"))
    write_json(path, summary)
    return summary


def _warn_of_training(summary: dict[str, Any], progress: Progress) -> None:
    before, after = (
        summary["accuracy"][f"slimmed, {weights}"]["top1"] for weights in ("supernet weights", "trained")
    )
    if after < before:
        told = f"training the network found did not help: top-1 {before:.1%} before, {after:.1%} after"
        progress.line(f"   {told}; give it more --epochs")
