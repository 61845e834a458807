"""A study survives its JSON, and its answers are those of its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from efficientformer.errors import InputError
from efficientformer.files import write_json
from efficientformer.study.results import MIXED, Study, read_study
from efficientformer.study.verdict import INEXPRESSIBLE, NO_DIFFERENCE, REVERSED, SAME, UNDECIDED
from tests.study.made import HERE, made

THERE = "openvino:cpu:threads=1:precision=fp32"
STEMS = ("four 3×3, LeViT-256’s widths", "four 3×3, thin (12, 24, 48)", "two 3×3, L1’s stem")
_TWO_LEFT = {NO_DIFFERENCE: 2, INEXPRESSIBLE: 4}
STEMS = (*STEMS, "two 3×3, thin (12)", "two 3×3, thin (4)")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(json.dumps(made({"ReLU": 0.8}, {"HardSwish": "no operator"}).to_json()))


def test_json_gives_the_same_study_again(document: dict[str, Any]) -> None:
    study = made({"ReLU": 0.8}, {"HardSwish": "no operator"})
    again = Study.from_json(document)
    assert again == study
    assert again.to_json() == study.to_json()


def test_the_document_says_what_it_is_and_holds_receipts(document: dict[str, Any]) -> None:
    assert document["format"] == "efficientformer.study/1"
    trial = document["experiments"][-1]["trials"][0]
    assert trial["target"] == HERE
    assert trial["failures"] == {"HardSwish": "no operator"}
    receipt = trial["receipts"]["GELU"]
    assert receipt["format"] == "efficientformer.measurement/2"
    assert len(receipt["samples_ms"]) == 60
    relu = trial["comparisons"][0]
    assert relu["verdict"] == SAME
    assert 0.78 < relu["ratio"]["low"] <= relu["ratio"]["value"] <= relu["ratio"]["high"] < 0.82
    assert {key: document["answers"][3][key] for key in ("observation", "target", "verdict")} == {
        "observation": 4,
        "target": HERE,
        "verdict": SAME,
    }


@pytest.mark.parametrize(
    ("ratios", "failures", "observation", "verdict", "counts"),
    [
        (dict.fromkeys(STEMS, 0.5), {}, 1, SAME, {SAME: 6}),
        (dict.fromkeys(STEMS, 2.0), {}, 1, REVERSED, {REVERSED: 6}),
        ({}, {}, 1, NO_DIFFERENCE, {NO_DIFFERENCE: 6}),
        (dict.fromkeys(STEMS[:1], 0.5), {}, 1, MIXED, {SAME: 1, NO_DIFFERENCE: 5}),
        ({"ReLU": 0.8}, {"HardSwish": "no"}, 4, SAME, {SAME: 2, INEXPRESSIBLE: 2}),
        ({}, dict.fromkeys(("one 16×16 convolution", "one 4×4 convolution"), "no"), 1, UNDECIDED, _TWO_LEFT),
        ({}, {"GELU": "no"}, 4, UNDECIDED, {INEXPRESSIBLE: 4}),
    ],
)
def test_an_answer_is_what_all_its_claims_share(ratios, failures, observation, verdict, counts) -> None:
    answer = made(ratios, failures).answer(observation, HERE)
    assert (answer.verdict, answer.counts) == (verdict, counts)


def test_unusable_timings_leave_a_study_undecided() -> None:
    answer = made(noise=0.6).answer(1, HERE)
    assert (answer.verdict, answer.counts) == (UNDECIDED, {UNDECIDED: 6})


def test_targets_answer_each_for_itself(tmp_path: Path) -> None:
    study = made(targets=(HERE, THERE))
    write_json(tmp_path / "study.json", study.to_json())
    assert read_study(tmp_path) == read_study(tmp_path / "study.json") == study
    assert {one.target for one in study.experiments[0].trials} == {HERE, THERE}
    assert study.answer(1, THERE).verdict == NO_DIFFERENCE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "study.json"),
        ("[]", "expected a JSON object"),
        ('{"format": "efficientformer.study/0"}', "efficientformer.study/1"),
        ('{"format": "efficientformer.study/1"}', "a value is missing"),
        ('{"format": "efficientformer.study/1", "version": "1", "date": "", "targets": 3}', "wrong type"),
    ],
)
def test_a_damaged_study_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_study(tmp_path)
