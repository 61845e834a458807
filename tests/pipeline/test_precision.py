"""Slimming in other precisions than float32, and choosing among several, on a made-up clock."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from efficientformer import Architecture, InputError
from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import decode
from efficientformer.data.sources.folder import scan
from efficientformer.errors import PromiseError
from efficientformer.latency.exports import exported
from efficientformer.latency.subjects import subject
from efficientformer.latency.target import Target
from efficientformer.pipeline import contract, precision
from efficientformer.pipeline.contract import BudgetMissedError, within
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.precision import Candidate, Decisions, ranked
from efficientformer.pipeline.slim import slim, slim_to_budgets
from efficientformer.pipeline.team import Team
from efficientformer.progress import Progress
from efficientformer.report import write_report
from efficientformer.runtimes.openvino import model as openvino
from efficientformer.search.journal import Journal, replay
from tests.pipeline import simulated
from tests.strategies import tiny

QUIET = Progress(None)
INT8 = Target(precision="int8")


@pytest.fixture(scope="module")
def begun(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in both precisions."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr)
        slim(both(photos), out, progress=QUIET)
    return out


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    simulated.install(monkeypatch.setattr)
    return monkeypatch


def both(photos: Path, budget: str = "60%", **changes: Any) -> Job:
    return simulated.tiny_job(photos, budget, precisions=("fp32", "int8"), **changes)


def only_trained(begun: Path, run: Path) -> Path:
    """A copy of a run as it was when its supernet was trained."""
    run.mkdir()
    for name in ("job.json", "supernet.safetensors", "ranking.safetensors", "latency.sqlite"):
        shutil.copyfile(begun / name, run / name)
    for path in begun.glob("preflight*.json"):
        shutil.copyfile(path, run / path.name)
    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Which is the best


def candidate(
    name: str, loss: float, top1: float = 0.5, measured_ms: float = 1.0, error: str = ""
) -> Candidate:
    return Candidate(name, tiny(), 1.0, measured_ms, top1, loss, 0 if error else 100, error)


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        ([candidate("fp32", 0.5), candidate("int8", 0.4)], "int8"),
        ([candidate("fp32", 0.5, 0.9), candidate("int8", 0.4, 0.1)], "int8"),  # the loss decides
        ([candidate("fp32", 0.4, 0.5), candidate("int8", 0.4, 0.6)], "int8"),
        ([candidate("fp32", 0.4), candidate("int8", 0.4)], "fp32"),  # the target's own
        ([candidate("fp32", 0.5), candidate("int8", 0.4, measured_ms=1.03)], "fp32"),  # over the budget
        ([candidate("fp32", 0.5, measured_ms=1.5), candidate("int8", 0.4, measured_ms=1.03)], "int8"),
        ([candidate("fp32", 0.5), candidate("int8", 0.4, error="differs")], "fp32"),
        ([candidate("fp32", 0.5, measured_ms=2.0), candidate("int8", 0.4, error="differs")], "fp32"),
    ],
)
def test_the_least_loss_within_the_budget_is_taken(candidates: list[Candidate], best: str) -> None:
    found = ranked(candidates, 1.0)
    assert found[0].precision == best
    assert set(found) == set(candidates)


def test_no_file_that_computes_its_network_is_an_error() -> None:
    with pytest.raises(PromiseError, match="int8 left out: differs; bf16 left out: too small"):
        ranked([candidate("int8", 0.1, error="differs"), candidate("bf16", 0.1, error="too small")], 1.0)


def test_decisions_are_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "precisions.jsonl"
    first = [candidate("int8", 0.4), candidate("fp32", 0.5, error="differs")]
    Decisions(path).add(2.0, [dataclasses.replace(first[0], loss=9.0)])
    Decisions(path).add(2.0, first)  # the last counts
    again = Decisions(path)
    assert [str(one) for one in again.of(2.0)] == [str(one) for one in first]
    assert again.of(2.0)[0] == first[0]
    assert again.of(3.0) == []
    path.write_text('{"format": "another/1"}\n')
    with pytest.raises(InputError, match="remove it to compare precisions anew"):
        Decisions(path)


# In one other precision


@pytest.mark.slow
def test_a_target_of_int8_is_measured_exported_and_judged_in_int8(
    tmp_path: Path, photos: Path, clock: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    summary = slim(simulated.tiny_job(photos, target=INT8), run, progress=QUIET)
    assert summary["target"] == str(INT8)
    assert summary["artefact"]["path"] == "model.int8.onnx"
    found = Architecture.from_json(read(run / "architecture.json"))
    assert summary["measured_ms"] == pytest.approx(simulated.network_ms(found, INT8), rel=1e-3)
    assert within(summary["measured_ms"], summary["budget_ms"])
    assert summary["top1"] == summary["accuracy"]["slimmed, exported in int8"]["top1"]
    assert summary["images"] == summary["accuracy"]["slimmed, trained"]["images"]
    val = decode(scan(photos, 0).val, 37, tmp_path / "val.images")
    session = onnxruntime.InferenceSession(run / "model.int8.onnx")
    x, labels = next(evaluation_batches(val, 32))
    guesses = [session.run(None, {"images": one[None]})[0].argmax() for one in x.contiguous().numpy()]
    assert (torch.tensor(guesses) == labels).float().mean().item() == pytest.approx(summary["top1"])
    assert not (run / "precisions.jsonl").exists()
    assert "exported in int8" in write_report(run).read_text()
    left = subject(str(run))
    assert exported(left, INT8) == (run / "model.int8.onnx", None)  # not exported anew, as in float32
    assert left.files == {}


# Among several


@pytest.mark.slow
def test_one_precision_is_taken_and_only_its_network_trained(begun: Path, photos: Path) -> None:
    summary, (head, decision) = read(begun / "summary.json"), lines(begun / "precisions.jsonl")
    assert head["format"] == precision.FORMAT
    compared = decision["candidates"]
    assert {one["precision"] for one in compared} == {"fp32", "int8"}
    assert [one["loss"] for one in compared] == sorted(one["loss"] for one in compared)
    assert {one["images"] for one in compared} == {len(scan(photos, 0).search)}
    assert all(within(one["measured_ms"], decision["budget_ms"]) for one in compared)
    macs = {one["precision"]: Architecture.from_json(one["architecture"]).macs for one in compared}
    assert macs["int8"] > macs["fp32"]  # the same budget holds more
    assert summary["precisions"] == compared
    taken = decision["taken"]
    assert summary["target"] == str(Target(precision=taken))
    kept = {path.name for path in begun.glob("model*.onnx")}
    assert kept == {Target(precision=taken).file_name("model")}
    for name in ("search.jsonl", "search-int8.jsonl"):
        assert Journal(begun / name).measured.verified
    journal = Journal(begun / "journal.jsonl")
    assert replay(journal)[-1] == Architecture.from_json(compared[0]["architecture"])
    assert read(begun / "preflight-int8.json")["space"] == read(begun / "preflight.json")["space"]
    assert "images set apart for the search" in write_report(begun).read_text()


@pytest.mark.slow
def test_what_was_compared_is_said_on_one_line_and_one_network_trained(
    begun: Path, photos: Path, tmp_path: Path, clock: pytest.MonkeyPatch
) -> None:
    trained, learn, told = [], Team.learn, io.StringIO()

    def counted(team: Team, architecture: Architecture, *rest: Any) -> Any:
        trained.append(architecture)
        return learn(team, architecture, *rest)

    clock.setattr(Team, "learn", counted)
    run = only_trained(begun, tmp_path / "run")
    slim(both(photos), run, progress=Progress(told))
    assert len(trained) == 1
    (line,) = [one for one in told.getvalue().splitlines() if one.strip().startswith("taken: ")]
    assert line.count("top-1") == line.count("loss") == line.count("predicted") == 2
    for name in (
        "precisions.jsonl",
        "search.jsonl",
        "search-int8.jsonl",
        "scores.jsonl",
        "model.safetensors",
    ):
        assert (run / name).read_bytes() == (begun / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("where", ["find", "_score", "add", "learn"])
def test_stopped_anywhere_it_ends_the_same(
    begun: Path, photos: Path, tmp_path: Path, clock: pytest.MonkeyPatch, where: str
) -> None:
    """Searching and judging are let through once, and then stopped; the others are called but once."""
    run = only_trained(begun, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr)
        stop(patch, where)
        with pytest.raises(KeyboardInterrupt):
            slim(both(photos), run, progress=QUIET)
    assert not (run / "summary.json").exists()
    slim(both(photos), run, progress=QUIET)
    names = ("precisions.jsonl", "search.jsonl", "search-int8.jsonl", "scores.jsonl", "model.safetensors")
    for name in (*names, "journal.jsonl", "architecture.json"):
        assert (run / name).read_bytes() == (begun / name).read_bytes(), name


def stop(patch: pytest.MonkeyPatch, where: str) -> None:
    """Stop the run where it goes through a function, the second time if there is one."""
    holders = {"find": contract.Contract, "_score": precision, "add": Decisions, "learn": Team}
    going, calls = getattr(holders[where], where), itertools.count(where in ("add", "learn"))

    def stopping(*arguments: Any, **named: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return going(*arguments, **named)

    patch.setattr(holders[where], where, stopping)


@pytest.mark.slow
def test_a_budget_that_one_precision_alone_can_meet_is_met_in_it(
    begun: Path, photos: Path, tmp_path: Path, clock: pytest.MonkeyPatch
) -> None:
    least = {name: read(begun / f"preflight{name}.json")["least"]["median_ms"] for name in ("", "-int8")}
    run, budget_ms = only_trained(begun, tmp_path / "run"), 0.9 * least[""]
    assert budget_ms > least["-int8"]
    job = both(photos, f"60%,{budget_ms:.4f}ms")
    _, fast = slim_to_budgets(job, run, progress=QUIET)
    assert fast["target"] == str(INT8)
    assert [one["precision"] for one in fast["precisions"]] == ["int8"]
    assert write_report(next(run.glob("*ms"))).exists()  # the pre-flight is the run's, a folder above
    front = read(run / "front.json")
    assert front["networks"][0]["target"] == str(INT8)
    with pytest.raises(InputError, match=r"below what the smallest network takes here, .*:precision=int8 "):
        slim(both(photos, f"{0.9 * least['-int8']:.4f}ms"), run, progress=QUIET)


@pytest.mark.slow
def test_after_a_budget_that_was_missed_it_is_decided_anew(
    begun: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = only_trained(begun, tmp_path / "run")
    simulated.install(monkeypatch.setattr, slower_when_exported=100.0)
    with pytest.raises(BudgetMissedError):
        slim(both(photos), run, progress=QUIET)
    simulated.install(monkeypatch.setattr)
    summary = slim(both(photos), run, progress=QUIET)
    assert within(summary["measured_ms"], summary["budget_ms"])
    assert len(lines(run / "precisions.jsonl")) == 3


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_left_out(
    begun: Path, photos: Path, tmp_path: Path, clock: pytest.MonkeyPatch
) -> None:
    run, scoring = only_trained(begun, tmp_path / "run"), precision._score

    def broken(network: Architecture, contract: Any, path: Path) -> Any:
        if contract.target == INT8:
            raise PromiseError(f"{path}: the outputs differ")
        return scoring(network, contract, path)

    clock.setattr(precision, "_score", broken)
    summary = slim(both(photos), run, progress=QUIET)
    assert summary["target"] == str(Target())
    assert summary["precisions"][1]["error"] == "candidate.int8.onnx: the outputs differ"
    assert "left out: candidate.int8.onnx" in write_report(run).read_text()


# What cannot be done


def test_a_precision_that_the_runtime_has_not_got_is_refused(photos: Path) -> None:
    with pytest.raises(InputError, match=r"precision=fp16': onnxruntime knows precision fp32, int8 only"):
        simulated.tiny_job(photos, precisions=("fp16",))


def test_a_precision_that_cannot_be_used_here_is_refused_before_any_work(
    tmp_path: Path, photos: Path, clock: pytest.MonkeyPatch
) -> None:
    clock.setattr(openvino, "installed", lambda _: None)
    job = simulated.tiny_job(photos, target=Target("openvino"), precisions=("int8",))
    with pytest.raises(
        InputError, match="openvino:precision=int8 cannot be used here: nncf is not installed"
    ):
        slim(job, tmp_path / "run", progress=QUIET)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}
