"""What the benchmarks of searching share: supernets and latency tables that are made once, under --shared.

A way to slim is a space with a supernet: ours, or the paper's. Each is trained once and serves every runtime,
but for one of `--paths near`, which is of one runtime and budget. Each runtime's latency table serves every
way, and `table_audit.py` audits the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from efficientformer.data.sources.folder import scan
from efficientformer.files import read_json, write_atomically, write_json
from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.pipeline.contract import Contract
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.slim import prepared
from efficientformer.pipeline.slim_training import SUPERNET, Pictures, learn_supernet
from efficientformer.progress import Progress
from efficientformer.search.space.search_space import OPEN_KINDS, PAPER_KINDS
from efficientformer.search.supernet.draws import Sampling
from efficientformer.training.distributed import World

RESULTS = Path(__file__).with_name("results")
OURS, PAPERS = "slimmed", "plain greedy"
WAYS = (PAPERS, OURS)
EXPANSIONS = (2, 3)
WHOLE = Budget(share=1.0)
NOT_RESULTS = ("data", "out", "shared", "processes", "device")
_KEPT = (SUPERNET, "ranking.safetensors", "scores.jsonl")


def add_options(parser: argparse.ArgumentParser, paths: str = "even", policy: str = "exact") -> None:
    """The options that say which supernets and tables; our way is of these paths and policy by default."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("runs/shared"), help="supernets and tables")
    parser.add_argument("--input-size", type=int, default=96)
    parser.add_argument("--supernet", default="s")
    parser.add_argument("--supernet-epochs", type=int, default=20)
    parser.add_argument("--paths", default=paths)
    parser.add_argument("--policy", default=policy)
    parser.add_argument("--precision", default="bf16", help="of trainings; fp32 is faster on some processors")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the supernets")
    parser.add_argument("--device", default="cpu", help="that trains")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at once, on a CPU")


def job_of(options: argparse.Namespace, target: str, way: str = OURS, budget: Budget = WHOLE) -> Job:
    """A slimming job, ours or the paper's: its space, and soft paths, whose steps cost four times as much.

    The budget plays a part only for a supernet of `--paths near`: `Contract.find` is told its own.
    """
    ways: dict[str, dict[str, Any]] = {
        OURS: {
            "kinds": OPEN_KINDS,
            "expansions": EXPANSIONS,
            "policy": options.policy,
            "sampling": Sampling(paths=options.paths, elastic=True),
            "supernet_epochs": options.supernet_epochs,
        },
        PAPERS: {
            "kinds": PAPER_KINDS,
            "expansions": (),
            "policy": "greedy",
            "sampling": Sampling(),
            "supernet_epochs": max(1, options.supernet_epochs // 4),
        },
    }
    return Job(
        options.data,
        (budget,),
        Target.parse(target),
        input_size=options.input_size,
        supernet=options.supernet,
        precision=options.precision,
        device=options.device,
        seed=options.seed,
        **ways[way],
    )


def table_of(options: argparse.Namespace, target: Target) -> Path:
    """A runtime's latency table of the space."""
    folder = options.shared / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{target.runtime}-{options.supernet}-{options.input_size}.sqlite"


def train_supernets(options: argparse.Namespace, ways: Iterable[str] = WAYS) -> None:
    """The supernets that are not trained yet and serve every runtime; another is trained by `contract_of`."""
    general = [way for way in ways if not _is_near(job_of(options, "onnxruntime", way))]
    left = [(way,) for way in general if not (_shared(options, way) / SUPERNET).exists()]
    at_once(options, _learn, left)


def _learn(options: argparse.Namespace, way: str, threads: int) -> str:
    torch.set_num_threads(threads)
    job, folder = job_of(options, "onnxruntime", way), RunFolder(_shared(options, way))
    split, world = scan(job.data, job.seed), World(device=torch.device(options.device))
    images = Pictures(job, split, folder, world, Progress(None)).decode_all()
    space = job.space(job.supernet, len(split.classes))
    learn_supernet(job, space, images.train, folder, Progress(None), world)
    shutil.rmtree(folder.work(""), ignore_errors=True)
    return f"supernet: {way}"


def at_once(options: argparse.Namespace, work: Callable[..., str], tasks: Iterable[tuple[Any, ...]]) -> None:
    """Trainings; several at once on a CPU, a share of the threads each.

    Args:
        options: the number of processes and the device.
        work: called with the options, a task and the number of threads; what it returns is printed.
        tasks: the arguments in between.
    """
    processes = options.processes if options.device == "cpu" else 1
    threads = max(1, (os.cpu_count() or 1) // processes)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        doing = [pool.apply_async(work, (options, *one, threads)) for one in tasks]
        for one in doing:
            print(f"{datetime.now():%H:%M:%S} {one.get()}", flush=True)


@contextlib.contextmanager
def contract_of(
    options: argparse.Namespace, target: str, folder: RunFolder, way: str = OURS, budget: Budget = WHOLE
) -> Generator[Contract]:
    """What searches in a folder: the runtime's table, the way's supernet, the scores all searches share."""
    job, shared = job_of(options, target, way, budget), _shared(options, way)
    if _is_near(job):
        if budget == WHOLE:
            raise SystemExit("--paths near trains a supernet for one budget; this benchmark searches many")
        shared = shared.with_name(f"{shared.name}-{job.target.runtime}-{budget}")
    folder.root.mkdir(parents=True, exist_ok=True)
    _copy(shared, folder.root)
    world = World(device=torch.device(options.device))
    table = table_of(options, job.target)
    with prepared(job, scan(job.data, job.seed), folder, table, world, Progress()) as contracts:
        (contract,) = contracts
        yield contract
    _copy(folder.root, shared)
    shutil.rmtree(folder.work(""), ignore_errors=True)


def claim(options: argparse.Namespace, free: Iterable[str]) -> None:
    """Say in the folder --out what its results are of; end where they are of something else.

    Args:
        options: the benchmark's.
        free: the names of those that may change from one start to the next.
    """
    path = options.out / "asked.json"
    asked = {key: value for key, value in vars(options).items() if key not in (*NOT_RESULTS, *free)}
    there = kept(path, lambda: asked)
    if wrong := [key for key in asked if there.get(key) != asked[key]]:
        key = wrong[0]
        raise SystemExit(
            f"{options.out}: its results are of {key} {there.get(key)}, not {asked[key]}; give another --out"
        )


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """A result, made if it is not there."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def _is_near(job: Job) -> bool:
    """Whether the supernet is of networks near the budget only."""
    return job.sampling.paths == "near"


def _shared(options: argparse.Namespace, way: str) -> Path:
    """Where a way's supernet is, by how it is trained."""
    job = job_of(options, "onnxruntime", way)
    how = f"{job.sampling.paths} {job.supernet_epochs} {job.precision} seed {job.seed}"
    name = f"{way} {job.supernet} {job.input_size} {how}"
    return options.shared / name.replace(" ", "-")


def _copy(there: Path, here: Path) -> None:
    """Take over what is not here, and scores, if more are there: a stopped search has some of its own."""
    here.mkdir(parents=True, exist_ok=True)
    for name in _KEPT:
        file, own = there / name, here / name
        if file.exists() and (not own.exists() or file.stat().st_size > own.stat().st_size):
            write_atomically(own, file.read_bytes())
