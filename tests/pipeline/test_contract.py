"""Budgets met from below and above, several from one supernet, by every policy, in one process and in two."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from efficientformer import Architecture, InputError
from efficientformer.data.sources.folder import scan
from efficientformer.pipeline import contract
from efficientformer.pipeline import slim as slimming
from efficientformer.pipeline.contract import within
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.front import front
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.slim import place, prepared, slim, slim_to_budgets
from efficientformer.pipeline.team import Team
from efficientformer.progress import Progress
from efficientformer.search.journal import Journal, replay, step_of
from efficientformer.search.policies.search import POLICIES
from efficientformer.search.supernet.draws import Sampling
from efficientformer.training.distributed import World
from tests.pipeline import simulated

QUIET = Progress(None)


def fine_job(data: Path, budget: str, **changes: Any) -> Job:
    return simulated.tiny_job(data, budget, **(simulated.FINE | changes))


@pytest.fixture(scope="module")
def begun(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped when its supernet was trained."""
    out = tmp_path_factory.mktemp("runs") / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr)
        patch.setattr(slimming, "rank", stop)
        with pytest.raises(KeyboardInterrupt):
            slim(fine_job(photos, "50%"), out, progress=QUIET)
    return out


@pytest.fixture
def run(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to go on with; training another supernet fails."""
    simulated.install(monkeypatch.setattr)
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def claim(run: Path, job: Job) -> None:
    """As if the run had been begun for this job."""
    RunFolder(run).claim(job)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_the_contract_and_its_journal_replays(
    run: Path, photos: Path, policy: str
) -> None:
    job = fine_job(photos, "50%", policy=policy)
    claim(run, job)
    before = (run / "supernet.safetensors").read_bytes()
    summary = slim(job, run, progress=QUIET)
    assert within(summary["measured_ms"], summary["budget_ms"])
    assert (run / "supernet.safetensors").read_bytes() == before
    journal = Journal(run / "journal.jsonl")
    found = Architecture.from_json(json.loads((run / "architecture.json").read_text()))
    path = replay(journal)
    assert step_of(found, path, journal) == len(path) - 1
    assert journal.measured.verified[path[-1]] == pytest.approx(simulated.network_ms(path[-1]))


def test_budgets_over_the_whole_range_are_met_from_one_supernet(run: Path, photos: Path) -> None:
    job = fine_job(photos, "20%,35%,50%,65%,80%,95%")
    claim(run, job)
    summaries = slim_to_budgets(job, run, progress=QUIET)
    assert [one["budget"] for one in summaries] == ["20%", "35%", "50%", "65%", "80%", "95%"]
    assert all(within(one["measured_ms"], one["budget_ms"]) for one in summaries)
    folders = {place(RunFolder(run), budget).root.name for budget in job.budgets}
    assert folders == {f"{share}-percent" for share in (20, 35, 50, 65, 80, 95)}
    document = json.loads((run / "front.json").read_text())
    times = [one["measured_ms"] for one in document["networks"]]
    assert times == sorted(times)
    assert document["networks"][0]["on_front"]


def test_another_budget_comes_into_a_finished_run(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(json.dumps(slim(fine_job(photos, "50%"), run, progress=QUIET)))
    searched = (run / "search.jsonl").read_bytes()
    monkeypatch.setattr(slimming, "learn_supernet", _read_only(slimming.learn_supernet))
    second = slim(fine_job(photos, "30%"), run, progress=QUIET)
    assert second["measured_ms"] < first["measured_ms"]
    assert (run / "30-percent" / "summary.json").exists()
    assert json.loads((run / "summary.json").read_text()) == first
    assert (run / "search.jsonl").read_bytes().startswith(searched)  # the path is gone on with


def test_a_budget_the_supernet_was_not_trained_near_is_told_of(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr)
    changes = {"policy": "bayesian", "sampling": Sampling(paths="near"), "evaluations": 6}
    told = {}
    for budget in ("50%", "55%", "80%"):
        lines = io.StringIO()
        slim(fine_job(photos, budget, **changes), tmp_path / "run", progress=Progress(lines))
        told[budget] = "the supernet was trained on networks near" in lines.getvalue()
    assert told == {"50%": False, "55%": False, "80%": True}


def _read_only(learn: Any) -> Any:
    def read(job: Job, space: Any, images: Any, folder: RunFolder, *rest: Any) -> Any:
        assert folder.file("supernet.safetensors").exists()
        return learn(job, space, images, folder, *rest)

    return read


# of the greater jump, a budget of 0.45 may lie between what any network takes
@pytest.mark.parametrize(("jump", "shares"), [(1.085, (0.4, 0.41, 0.42, 0.45)), (1.15, (0.4, 0.41, 0.42))])
def test_budgets_are_met_where_the_table_errs_by_steps(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, jump: float, shares: Sequence[float]
) -> None:
    """Networks over some size take longer than the table can know: their scale leads to small ones that come
    out far under the budget, and theirs back. What lies between their scales has to be searched."""
    largest = fine_job(photos, "50%", policy="exact").space("xs", 3).largest
    step = 0.4 * largest.macs

    def stairs(architecture: Architecture, target: Any) -> Any:
        ms = simulated.network_ms(architecture, target) * (jump if architecture.macs > step else 1.0)
        return simulated.receipt(str(architecture), target, ms)

    monkeypatch.setattr(contract, "quick_receipt", stairs)
    job = fine_job(photos, "50%", policy="exact")
    claim(run, job)
    folder, found = RunFolder(run), {}
    with prepared(job, scan(photos, 0), folder, run / "latency.sqlite", World(), QUIET) as (one,):
        low, high = one.plan.least.median_ms, one.plan.greatest.median_ms
        for share in shares:
            budget_ms = low + share * (high - low)
            network = one.find(budget_ms).architecture
            found[share] = one.journal.measured.verified[network] / budget_ms
            again = dataclasses.replace(one, journal=Journal(one.journal.path))  # stopped, and started again
            assert again.find(budget_ms).architecture == network
    assert all(0.93 <= took <= 1.0 for took in found.values()), found


@dataclasses.dataclass
class Machine:
    """How slow it is: run by run what is queued, else `now`; noise on top of it."""

    now: float = 1.0
    queued: list[float] = dataclasses.field(default_factory=list)
    noise: float = 0.0
    random: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))

    def __call__(self) -> float:
        slow = self.queued.pop(0) if self.queued else self.now
        return slow * (1 + self.random.gauss(0, self.noise))


def after_search(machine: Machine, case: str) -> None:
    """What happens to it while the first network is trained."""
    if case == "a slow minute":
        machine.queued = [1.25]
    elif case == "a slow hour":
        machine.queued = [1.25] * 5
    elif case == "slow for ever":
        machine.now = 1.25
    elif case == "fast for ever":
        machine.now = 0.8


# trainings: a slow minute is waited for, a machine that stays slow costs one more
@pytest.mark.parametrize(
    ("policy", "share", "case", "noise", "most"),
    [
        ("exact", 0.3, "a slow minute", 0.0, 1),
        ("exact", 0.3, "a slow hour", 0.0, 3),
        ("exact", 0.8, "slow for ever", 0.0, 2),
        ("exact", 0.8, "fast for ever", 0.0, 2),
        ("bayesian", 0.5, "slow for ever", 0.0, 2),
        ("bayesian", 0.5, "nothing", 0.01, 1),
    ],
)
def test_budgets_are_met_on_a_machine_that_changes(
    run: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    share: float,
    case: str,
    noise: float,
    most: int,
) -> None:
    machine, trained = Machine(noise=noise), []

    def learn(team: Team, architecture: Architecture, folder: RunFolder) -> Any:
        if not trained:
            after_search(machine, case)
        trained.append(architecture)
        return team.judge.inherited(architecture)  # the weights do not matter here

    simulated.install(monkeypatch.setattr, clock=machine)
    monkeypatch.setattr(Team, "learn", learn)
    job = fine_job(photos, "50%", policy=policy)
    claim(run, job)
    folder = RunFolder(run)
    with prepared(job, scan(photos, 0), folder, run / "latency.sqlite", World(), QUIET) as (one,):
        low, high = one.plan.least.median_ms, one.plan.greatest.median_ms
        budget_ms = low + share * (high - low)
        met = one.meet(budget_ms, folder)
    assert within(met.proof.slimmed.latency.median_ms, budget_ms)
    assert len(trained) <= most, trained


@pytest.mark.parametrize("speed", [0.85, 1.0])
def test_a_policy_searches_though_the_first_window_lay_below_the_smallest_network(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    """On a machine faster than the table knows: the smallest network is measured, then the policy is run."""
    simulated.install(monkeypatch.setattr, clock=Machine(now=speed))
    job = fine_job(photos, "50%", policy="bayesian")
    claim(run, job)
    with prepared(job, scan(photos, 0), RunFolder(run), run / "latency.sqlite", World(), QUIET) as (one,):
        budget_ms = 1.1 * speed * one.plan.least.median_ms
        found = one.find(budget_ms)
    assert 0.93 * budget_ms <= one.journal.measured.verified[found.architecture] <= budget_ms
    assert found.searched and found.evaluations >= job.evaluations
    assert one.journal.found[0].searched == (speed == 1.0)


@pytest.mark.parametrize(
    ("networks", "on_front"),
    [
        ([(1.0, 0.5), (2.0, 0.6)], [True, True]),
        ([(2.0, 0.6), (1.0, 0.7)], [True, False]),  # in the order of milliseconds
        ([(1.0, 0.5), (2.0, 0.5), (3.0, 0.6)], [True, False, True]),
    ],
)
def test_the_front(networks: list[tuple[float, float]], on_front: list[bool]) -> None:
    names = ["budget", "budget_ms", "samples", "verdict", "images", "params", "macs", "architecture"]
    summaries = [
        dict.fromkeys(names, 0) | {"target": "here", "measured_ms": ms, "top1": top1} for ms, top1 in networks
    ]
    assert [one["on_front"] for one in front(summaries)["networks"]] == on_front


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "lucky"}, "unknown policy 'lucky'"),
        ({"kinds": ("attention",)}, "pool or ffn is needed"),
        ({"kinds": ("pool", "conv")}, "unknown kind of block 'conv'"),
        ({"expansions": (2, 5)}, "expansion 5: give whole numbers from 1 to 4"),
        ({"activations": ("tanh",)}, "unknown activation 'tanh'"),
        ({"input_sizes": (32,)}, "smaller than the input size 32, not 32"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"width_step": 3}, "the width step is an even number"),
        ({"sampling": Sampling(paths="near"), "policy": "exact"}, "judges larger ones; policies that do not"),
        ({"sampling": Sampling(paths="near")}, "--policy greedy judges larger ones; policies that do not"),
        ({"sampling": Sampling(paths="even")}, "--paths even leaves α unlearnt"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    simulated.install(monkeypatch.setattr)
    with pytest.raises(InputError, match=message):
        slim(fine_job(photos, "50%", **changes), tmp_path / "run", progress=QUIET)


def test_equal_budgets_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="several different ones"):
        fine_job(photos, "1ms,1000us")


@pytest.mark.slow
@pytest.mark.parametrize("precisions", [(), ("int8",)], ids=["one precision", "two"])
def test_two_processes_score_and_find_what_one_does(
    begun: Path, photos: Path, tmp_path: Path, precisions: tuple[str, ...]
) -> None:
    """From the same supernet; the training of what is found is shared out, too."""
    program = [simulated.__file__, str(photos)]
    starts = {
        "one": [sys.executable, *program],
        "two": [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            *program,
        ],
    }
    for name, start in starts.items():
        shutil.copytree(begun, tmp_path / name)
        (tmp_path / name / "job.json").unlink()
        if precisions:
            (tmp_path / name / "preflight.json").unlink()  # of one precision only
        claim(tmp_path / name, fine_job(photos, "50%", policy="evolution", precisions=precisions))
        asked = [f"precisions={','.join(precisions)}"] if precisions else []
        done = subprocess.run(
            [*start, str(tmp_path / name), "50%", "fine", "policy=evolution", *asked],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    files = [path.name for path in (tmp_path / "one").glob("*.jsonl")]
    assert len(files) == (5 if precisions else 3)
    for file in (*files, "architecture.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
