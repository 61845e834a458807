"""Tables of latencies: no median without count, spread and verdict."""

from __future__ import annotations

import dataclasses

import pytest
from rich.table import Table

from efficientformer.latency.artefact import Artefact
from efficientformer.latency.compare import Agreement
from efficientformer.latency.matrix import Failure, Matrix
from efficientformer.latency.measurement import Conditions, Measurement
from efficientformer.latency.published import FIGURES
from efficientformer.latency.target import Target
from efficientformer.pipeline.ship import Shipped
from efficientformer.terminal import latency as module
from efficientformer.terminal.table import show

TARGET, OTHER = str(Target()), str(Target("tflite", threads=2))
FINGERPRINT = {"processor": "A processor", "cores": "2", "runtime": "onnxruntime 1"}


def receipt(model: str, ms: float, **conditions: object) -> Measurement:
    samples = tuple(ms * (0.95 + index / 300) for index in range(31))
    kept = Conditions(**{"launches": 3, "pinned": True, "cpus": (1,)} | conditions)
    return Measurement(model, TARGET, samples, FINGERPRINT, "2026-01-01", (), kept)


def cells(table: Table) -> list[list[str]]:
    columns = [list(column.cells) for column in table.columns]
    return [list(map(str, row)) for row in zip(*columns, strict=True)]


SIZES = {
    "a": module.size_cells((3, 224, 192), 12_345_678, 1_250_000_000),
    "b": module.size_cells((3, 32, 32), None, None),
}


def test_receipts_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    table = module.receipts_table({"a": receipt("a", 4.0), "b": receipt("b", 2.0)}, SIZES, "b")
    a, b = cells(table)
    assert a[:5] == ["a", "224×192", "12.35 M", "1.250 G", "4.000"]
    assert b[:5] == ["b", "32×32", "–", "–", "2.000"]
    assert [a[8], b[8]] == ["2.00", "1.00"]
    assert [a[7], a[9]] == ["31", "stable"]
    show(table)
    printed = " ".join(capsys.readouterr().out.split())
    assert "onnxruntime · A processor" in printed
    assert "×: over that of b in this run" in printed
    assert "2026-01-01" in printed


def test_without_the_yardstick_the_first_is_the_unit() -> None:
    rows = cells(module.receipts_table({"a": receipt("a", 4.0), "b": receipt("b", 2.0)}, SIZES, "gone"))
    assert [row[8] for row in rows] == ["1.00", "0.50"]


@pytest.mark.parametrize(
    ("conditions", "notes"),
    [
        ({}, ["started 3 times, kept on processor 1"]),
        ({"pinned": False}, ["started 3 times"]),
        ({"set_aside": 4}, ["4 rounds set aside because a fixed piece of work was slow"]),
        ({"others_cores": 0.5}, ["started 3 times", "all: other programs kept 0.5 of 2 cores busy"]),
    ],
)
def test_what_must_be_said_below(conditions: dict[str, object], notes: list[str]) -> None:
    receipts = {name: receipt(name, 1.0, **conditions) for name in "ab"}
    found = module.receipt_notes(receipts)
    assert len(found) == len(notes)
    assert all(note in line for note, line in zip(notes, found, strict=True))


def test_a_reason_names_whom_it_is_about() -> None:
    found = module.receipt_notes({"a": receipt("a", 1.0), "b": receipt("b", 1.0, stolen_cores=0.1)})
    assert found[1:] == ["  b: the hypervisor gave 0.10 cores to others"]


def test_a_matrix_marks_what_failed_and_what_was_not_asked() -> None:
    matrix = Matrix(
        {TARGET: {"a": receipt("a", 4.0), "b": receipt("b", 2.0)}, OTHER: {"a": receipt("a", 3.0)}},
        [Failure("b", OTHER, "no Erf")],
        "b",
    )
    table = module.matrix_table(matrix, ["a", "b", "c"])
    assert [column.header for column in table.columns] == ["model", "onnxruntime", "tflite:threads=2"]
    assert cells(table) == [
        ["a", "4.00 (2.00)", "3.00"],
        ["b", "2.00 (1.00)", "failed"],
        ["c", "–", "–"],
    ]


def test_agreements() -> None:
    then, now = receipt("a", 1.0), receipt("a", 1.02)
    moved = dataclasses.replace(receipt("a", 2.0), fingerprint={})
    rows = cells(module.agreement_table([Agreement(then, now), Agreement(then, moved)]))
    assert [row[4:] for row in rows] == [
        ["1.020", "within 3 %"],
        ["2.000", "apart, but machine or versions differ"],
    ]


def test_published_figures_name_device_and_source_and_are_marked_if_unsure() -> None:
    for one, row in zip(FIGURES, cells(module.published_table(FIGURES)), strict=True):
        assert row == [one.model, f"{one.ms:g}" + " ?" * (not one.certain), one.device, one.source]


def test_shipped_files() -> None:
    proof = Artefact("a.onnx", TARGET, 1_500_000, 2.0, 1e-6, 1e-4, 64, True, 0.5)
    shipped = [
        Shipped(Target(), proof, receipt("a", 1.0)),
        Shipped(Target("coreml"), dataclasses.replace(proof, photographs=False), untimed="macOS only"),
        Shipped(Target(precision="int8"), error="differs", broken=True),
        Shipped(Target("openvino"), error="not installed"),
    ]
    fine, untimed, broken, absent = cells(module.shipped_table("a", shipped))
    assert fine == ["onnxruntime", "a.onnx", "1.50", "2.0", "1.0e-06", "50% of 64", "1.000", "31", "stable"]
    assert untimed[5:] == ["–", "–", "–", "not timed"]
    assert broken[:2] == ["onnxruntime:precision=int8", "failed"]
    assert absent[:2] == ["openvino", "not exported"]
