"""Receipts then and now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from efficientformer import InputError
from efficientformer.latency.compare import Agreement, compared, read_receipts
from efficientformer.latency.matrix import Matrix
from efficientformer.latency.measurement import Measurement


def receipt(model: str, ms: float, target: str = "t", processor: str = "p") -> Measurement:
    return Measurement(model, target, (ms,) * 30, {"processor": processor}, "2026-01-01")


@pytest.mark.parametrize(
    ("now_ms", "agree"),
    [(10.0, True), (10.29, True), (9.71, True), (10.31, False), (9.69, False), (20.0, False)],
)
def test_medians_agree_within_3_percent(now_ms: float, agree: bool) -> None:
    one = Agreement(receipt("a", 10.0), receipt("a", now_ms))
    assert one.ratio == pytest.approx(now_ms / 10)
    assert one.agree is agree
    assert one.same_machine


def test_another_machine_is_told() -> None:
    assert not Agreement(receipt("a", 1.0), receipt("a", 1.0, processor="another")).same_machine


def test_pairs_measured_both_times_are_compared() -> None:
    then = [receipt("a", 1.0), receipt("b", 2.0), receipt("a", 3.0, "u"), receipt("gone", 4.0)]
    now = Matrix(
        {"t": {"a": receipt("a", 1.5), "new": receipt("new", 1.0)}, "u": {"a": receipt("a", 3.0, "u")}}
    )
    found = [(one.then.model, one.then.target, one.ratio) for one in compared(then, now)]
    assert found == [("a", "t", 1.5), ("a", "u", 1.0)]


def test_what_measure_writes_is_read(tmp_path: Path) -> None:
    receipts = [receipt("a", 1.0), receipt("b", 2.0)]
    matrix = Matrix({"t": {one.model: one for one in receipts}}, yardstick="a")
    listed, whole = tmp_path / "json.json", tmp_path / "out.json"
    listed.write_text(json.dumps([one.to_json() for one in receipts]))
    whole.write_text(json.dumps(matrix.to_json()))
    assert read_receipts(listed) == read_receipts(whole) == receipts


@pytest.mark.parametrize(
    "content",
    ["", "milk", "{}", "[1]", '[{"model": "a"}]', '{"receipts": 3}', '{"receipts": [[]]}', "null", '"text"'],
)
def test_a_file_without_receipts_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match="holds no receipts") as caught:
        read_receipts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_receipts(tmp_path / "none.json")
