"""The study end to end on ONNX Runtime with tiny variants, and with runtimes that cannot do what is asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from efficientformer.errors import InputError
from efficientformer.latency import bench
from efficientformer.latency.artefact import ExportMismatchError
from efficientformer.latency.process import WorkerError
from efficientformer.latency.target import Target
from efficientformer.runtimes import UnsupportedOperatorError
from efficientformer.study import run
from efficientformer.study import variants as of
from efficientformer.study.experiment import Experiment, Follows, subject_of, way
from efficientformer.study.experiments import EXPERIMENTS
from efficientformer.study.verdict import INEXPRESSIBLE
from tests.study.made import steady

SMALL = (3, 32, 32)
TINY = Experiment(
    "tiny",
    1,
    "A tiny experiment",
    "",
    way("large", SMALL, of.patches, 8, 4, 4),
    (way("small", SMALL, of.stack, 4, 8, expect="faster"), way("wide", SMALL, of.stack, 16, 8)),
    Follows("faster", "slower", "equal"),
)
NAMES = ["large", "small", "wide"]


def bad_norm() -> nn.Module:
    return Unknown()


class Unknown(nn.Module):
    """Has an operator that no exporter knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).real


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Exports and timings that take no time; the list says what was asked for."""
    asked: list[str] = []

    def exported(subject, target, cache=None):
        asked.append(subject.identity)
        return Path("/home/somebody/cache") / f"{len(asked)}.onnx", None

    monkeypatch.setattr(run, "exported", exported)
    monkeypatch.setattr(
        bench, "measure_files", lambda files, target, **_: {name: steady(1.0, name) for name in files}
    )
    return asked


@pytest.mark.slow
def test_a_study_on_onnx_runtime(tmp_path: Path) -> None:
    broken = dataclasses.replace(TINY, variants=(*TINY.variants, way("odd", SMALL, bad_norm)))
    told: list[tuple[int, int, str]] = []
    study = run.study(
        [Target()],
        [broken],
        told=lambda *one: told.append(one),
        cache=tmp_path,
        seconds=0.05,
        launches=1,
        rounds=4,
        min_samples=12,
    )
    trial = study.experiments[0].trial(str(Target()))
    assert list(trial.receipts) == NAMES
    assert all(len(one.samples_ms) >= 12 for one in trial.receipts.values())
    assert list(trial.failures) == ["odd"]
    assert trial.comparisons[2].verdict == INEXPRESSIBLE
    assert "\n" not in trial.comparisons[2].why
    assert [facts.macs for facts in study.experiments[0].variants[:2]] == [
        48 * 8 * 64,
        27 * 4 * 256 + 36 * 8 * 64,
    ]
    assert told[-1][:2] == (8, 8)
    assert [one.number for one in study.observations] == [1]


def test_every_experiment_can_be_tried(simulated: list[str]) -> None:
    study = run.study([Target()], cache=None)
    assert [one.name for one in study.experiments] == [one.name for one in EXPERIMENTS]
    assert len(simulated) == sum(len(one.all) for one in EXPERIMENTS)
    assert all(row.ratio for one in study.experiments for row in one.trials[0].comparisons)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UnsupportedOperatorError("ONNX: no such operator"), "ONNX: no such operator"),
        (ExportMismatchError("/home/somebody/x/model.onnx: gives (3,)"), "model.onnx: gives (3,)"),
        (WorkerError("/a/b.onnx: crashed"), "b.onnx: crashed"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_variant_that_cannot_be_exported_is_a_row(simulated, monkeypatch, error, why: str) -> None:
    def exported(subject, target, cache=None):
        if subject.identity == TINY.variants[0].identity:
            raise error
        return Path("x.onnx"), None

    monkeypatch.setattr(run, "exported", exported)
    trial = run.study([Target()], [TINY]).experiments[0].trials[0]
    assert trial.failures == {"small": why}
    assert (trial.comparisons[0].verdict, trial.comparisons[0].why) == (INEXPRESSIBLE, why)
    assert trial.comparisons[1].ratio is not None


def test_a_file_that_crashes_is_left_out_and_the_others_timed(simulated, monkeypatch) -> None:
    def measure_files(files, target, **_):
        if "small" in files:
            raise WorkerError(f"{files['small']}: crashed")
        return {name: steady(1.0, name) for name in files}

    monkeypatch.setattr(bench, "measure_files", measure_files)
    trial = run.study([Target()], [TINY]).experiments[0].trials[0]
    assert trial.failures == {"small": "2.onnx: crashed"}
    assert list(trial.receipts) == ["large", "wide"]


def test_a_target_that_cannot_be_used_is_refused_before_any_work(simulated, monkeypatch) -> None:
    def usable(runtime, device):
        raise InputError(f"{runtime}: not installed")

    monkeypatch.setattr(run, "usable", usable)
    with pytest.raises(InputError, match="onnxruntime: not installed"):
        run.study([Target()], [TINY])
    assert simulated == []


@pytest.mark.parametrize(
    ("names", "count"), [([], len(EXPERIMENTS)), (["patch-7"], 1), (["4"], 2), (["1", "patch-7"], 3)]
)
def test_experiments_are_chosen_by_name_or_observation(names: list[str], count: int) -> None:
    assert len(run.chosen(names)) == count


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(InputError, match="experiment 'patch-9' is not known; give an observation, 1 to 4"):
        run.chosen(["patch-9"])


def test_counting_needs_no_weights() -> None:
    subject = subject_of(TINY.variants[0])
    assert (subject.params, subject.macs) == (27 * 4 + 4 + 36 * 8 + 8, 27 * 4 * 256 + 36 * 8 * 64)
    assert subject.build is not None
    assert next(subject.build().parameters()).device.type == "cpu"
