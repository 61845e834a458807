"""Models × targets: ratios within a run, ranks between targets, failures named and not fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from efficientformer import InputError
from efficientformer.latency import bench
from efficientformer.latency import matrix as module
from efficientformer.latency.artefact import ExportMismatchError
from efficientformer.latency.matrix import YARDSTICK, Failure, Matrix, matrix_of, measure_matrix, merged
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.process import WorkerError
from efficientformer.latency.subjects import Subject
from efficientformer.latency.target import Target


def receipt(model: str, ms: float, target: str) -> Measurement:
    return Measurement(model, target, (ms,) * 30, {"cores": "2"}, "2026-01-01")


def made(medians: dict[str, dict[str, float]], yardstick: str = "a") -> Matrix:
    """A matrix of medians by target and model."""
    rows = {
        target: {model: receipt(model, ms, target) for model, ms in row.items()}
        for target, row in medians.items()
    }
    return Matrix(rows, yardstick=yardstick)


def test_ratios_are_within_a_target() -> None:
    matrix = made({"t": {"a": 2.0, "b": 3.0}, "u": {"a": 10.0, "b": 5.0}, "v": {"b": 1.0}})
    assert [matrix.ratio(target, "b") for target in ("t", "u", "v", "w")] == [1.5, 0.5, None, None]
    assert matrix.ratio("t", "a") == 1.0
    assert matrix.ratio("t", "c") is None


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ((1, 2, 3), (10, 20, 30), 1.0),
        ((1, 2, 3), (30, 20, 10), -1.0),
        ((1, 2, 3), (20, 10, 30), 0.5),  # 1 − 6 Σd² / n(n² − 1), d the differences of ranks
        ((1, 2, 3, 4), (10, 30, 20, 40), 0.8),
        ((1, 2, 3, 4), (40, 10, 20, 30), -0.2),
        ((1, 2), (10, 20), None),
        ((1,), (1,), None),
    ],
)
def test_rank_correlation(here: tuple[float, ...], there: tuple[float, ...], expected: float | None) -> None:
    names = "abcd"[: len(here)]
    rows = {target: dict(zip(names, row, strict=True)) for target, row in (("t", here), ("u", there))}
    (ranking,) = made(rows).rankings()
    assert (ranking.one, ranking.other, ranking.models) == ("t", "u", len(here))
    assert ranking.spearman == (expected if expected is None else pytest.approx(expected))


TIMES = st.lists(st.floats(0.1, 100), min_size=3, max_size=9, unique=True)


@given(TIMES, st.randoms(use_true_random=False))
def test_it_is_scipys_over_the_models_that_both_ran(times: list[float], random: Any) -> None:
    here = {f"m{index}": ms for index, ms in enumerate(times)}
    shuffled = dict(zip(here, random.sample(times, len(times)), strict=True))
    there = {"only there": 1.0, **dict(random.sample(list(shuffled.items()), len(shuffled)))}
    (ranking,) = made({"t": here, "u": there}).rankings()
    expected = scipy.stats.spearmanr([here[m] for m in here], [there[m] for m in here]).statistic
    assert ranking.spearman == pytest.approx(expected)
    assert ranking.models == len(times)
    assert (ranking.misranked is None) == (expected > 1 - 1e-9)


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 3, "b": 4}, None),
        ({"a": 1, "b": 2}, {"a": 4, "b": 2}, ("b", "a", 2.0, 0.5)),
        ({"a": 4, "b": 2}, {"a": 1, "b": 2}, ("a", "b", 2.0, 0.5)),
        ({"a": 1, "b": 1}, {"a": 4, "b": 2}, None),  # a tie is no order
        # b and c swap by little, a and c by much
        ({"a": 6.0, "b": 2.2, "c": 2.0}, {"a": 1.0, "b": 1.9, "c": 2.0}, ("a", "c", 3.0, 0.5)),
    ],
)
def test_the_pair_that_is_told_most_differently(
    here: dict[str, float], there: dict[str, float], expected: tuple[str, str, float, float] | None
) -> None:
    (ranking,) = made({"t": here, "u": there}).rankings()
    assert ranking.misranked == expected


def test_a_ranking_in_words() -> None:
    first, second, third = made(
        {
            str(Target("tflite")): {"a": 2, "b": 1, "c": 9},
            str(Target("ncnn", threads=2)): {"a": 3, "b": 4, "c": 5},
            str(Target("openvino")): {"a": 1, "b": 2},
        }
    ).rankings()
    assert str(first) == (
        "tflite and ncnn:threads=2: Spearman 0.50 (n = 3); "
        "a takes 2.00 times as long as b on tflite, 0.75 on ncnn:threads=2"
    )
    assert str(second).startswith("tflite and openvino: too few models (n = 2); a takes 2.00 times")
    assert str(third) == "ncnn:threads=2 and openvino: too few models (n = 2)"


def test_a_matrix_is_read_again_and_a_target_measured_anew_takes_the_place_of_the_old() -> None:
    first = Matrix(made({"t": {"a": 1, "b": 2}, "u": {"a": 3}}).receipts, [Failure("b", "u", "no Erf")], "a")
    again = matrix_of(json.loads(json.dumps(first.to_json())))
    assert (again.receipts, list(again.failures), again.yardstick) == (
        {target: dict(row) for target, row in first.receipts.items()},
        list(first.failures),
        "a",
    )
    both = merged(first, made({"u": {"a": 5, "b": 6}}))
    assert {target: set(row) for target, row in both.receipts.items()} == {"t": {"a", "b"}, "u": {"a", "b"}}
    assert both.receipts["u"]["a"].median_ms == 5
    assert both.failures == []


def test_the_document_holds_everything() -> None:
    matrix = Matrix(
        {"t": {"a": receipt("a", 1.0, "t")}, "u": {"a": receipt("a", 2.0, "u")}},
        [Failure("b", "t", "no Erf")],
        "a",
    )
    document = json.loads(json.dumps(matrix.to_json(), allow_nan=False))
    assert document["format"] == "efficientformer.matrix/1"
    assert document["yardstick"] == "a"
    assert [Measurement.from_json(one) for one in document["receipts"]] == [
        one for row in matrix.receipts.values() for one in row.values()
    ]
    assert document["failures"] == [{"model": "b", "target": "t", "why": "no Erf"}]
    assert [(one["one"], one["other"]) for one in document["rankings"]] == [("t", "u")]


# Measuring one


def network(name: str) -> Subject:
    return Subject(name, (3, 8, 8), 1, 1, name, nn.Flatten, {})


TARGETS = [Target(), Target(threads=2)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is exported or run: what would be is kept. A model's name may say how it fails."""
    kept: list[Any] = []

    def exported(subject: Subject, target: Target, cache: Path | None) -> tuple[Path, None]:
        kept.append(("export", subject.name, target.threads, cache))
        if subject.name == "cannot":
            raise InputError("no counterpart for Erf")
        if subject.name == "differs":
            raise ExportMismatchError("differs by 0.5")
        return Path(f"{subject.name}.onnx"), None

    class Process:
        def __init__(self, path: Path, target: Target) -> None:
            self.path = path

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def time(self, runs: int) -> list[float]:
            kept.append(("run", self.path.stem, runs))
            if self.path.stem == "crashes":
                raise WorkerError("crashes.onnx: crashed")
            return [1.0] * runs

    def measure_files(files: dict[str, Path], target: Target, **settings: Any) -> dict[str, Measurement]:
        kept.append(("measure", list(files), target.threads, settings))
        return {name: receipt(name, 1.0, str(target)) for name in files}

    for room, name, stub in (
        (module, "exported", exported),
        (module, "Process", Process),
        (bench, "measure_files", measure_files),
    ):
        monkeypatch.setattr(room, name, stub)
    return kept


def test_each_target_is_one_interleaved_run_of_all_models(asked: list[Any], tmp_path: Path) -> None:
    subjects = [network("a"), network("b")]
    matrix = measure_matrix(subjects, TARGETS, cache=tmp_path, seconds=0.5, launches=2)
    assert list(matrix.receipts) == [str(target) for target in TARGETS]
    assert all(list(row) == ["a", "b"] for row in matrix.receipts.values())
    assert matrix.failures == []
    measured = [one for one in asked if one[0] == "measure"]
    assert measured == [("measure", ["a", "b"], n, {"seconds": 0.5, "launches": 2}) for n in (1, 2)]
    assert [one[3] for one in asked if one[0] == "export"] == [tmp_path] * 4


@pytest.mark.parametrize(
    ("names", "yardstick"), [(["a", "b"], "a"), (["a", YARDSTICK], YARDSTICK), ([YARDSTICK, "a"], YARDSTICK)]
)
@pytest.mark.usefixtures("asked")
def test_the_yardstick_is_mobilenet_if_it_is_there(names: list[str], yardstick: str) -> None:
    assert measure_matrix([network(name) for name in names], TARGETS).yardstick == yardstick


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cannot", "no counterpart for Erf"),
        ("differs", "differs by 0.5"),
        ("crashes", "crashes.onnx: crashed"),
    ],
)
def test_a_pair_that_fails_is_named_and_the_others_are_measured(
    name: str, why: str, asked: list[Any]
) -> None:
    matrix = measure_matrix([network("a"), network(name), network("b")], TARGETS)
    assert matrix.failures == [Failure(name, str(target), why) for target in TARGETS]
    assert [list(row) for row in matrix.receipts.values()] == [["a", "b"]] * 2
    assert [one[1] for one in asked if one[0] == "measure"] == [["a", "b"]] * 2


def test_a_target_that_does_not_work_here_fails_for_every_model(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    targets = [Target(device="cuda"), Target()]
    matrix = measure_matrix([network("a"), network("b")], targets)
    assert [(one.model, one.target) for one in matrix.failures] == [(name, str(targets[0])) for name in "ab"]
    assert all("pip install onnxruntime-gpu" in one.why for one in matrix.failures)
    assert list(matrix.receipts) == [str(targets[1])]
    assert len([one for one in asked if one[0] == "export"]) == 2  # for the other target


@pytest.mark.usefixtures("asked")
def test_if_all_fail_there_is_still_a_matrix() -> None:
    matrix = measure_matrix([network("cannot")], TARGETS)
    assert matrix.receipts == {}
    assert matrix.rankings() == []
    json.dumps(matrix.to_json())


@pytest.mark.usefixtures("asked")
def test_it_tells_of_every_pair() -> None:
    told: list[tuple[int, int, str]] = []
    measure_matrix([network("a"), network("cannot")], TARGETS, told=lambda *one: told.append(one))
    assert [one[:2] for one in told] == [(1, 4), (2, 4), (2, 4), (3, 4), (4, 4), (4, 4)]
    assert told[0][2] == f"a for {TARGETS[0]}"
    assert told[2][2] == f"1 timed on {TARGETS[0].short}"
