"""`efficientformer study`: what it writes and prints; measuring is replaced by made-up receipts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from efficientformer.cli import main
from efficientformer.files import read_json
from efficientformer.study import run
from tests.study.made import made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks the study for."""
    kept: dict[str, Any] = {}

    def study(targets, experiments, **settings):
        kept.update(settings, targets=[str(one) for one in targets], experiments=list(experiments))
        return made({"ReLU": 0.8}, targets=kept["targets"], experiments=experiments)

    monkeypatch.setattr(run, "study", study)
    return kept


def test_a_study_is_written_printed_and_opened_again(asked, tmp_path: Path, capsys) -> None:
    out = tmp_path / "study"
    assert main(["study", "--seconds", "0.2", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "3 Norms" in printed.out
    assert "same as the paper" in printed.out
    assert "l1-activation · ReLU: ReLU saves time over GELU here" in " ".join(printed.out.split())
    assert str(out / "study.html") in printed.out
    assert "16 experiments on onnxruntime:cpu:threads=1" in printed.err
    assert asked["seconds"] == 0.2
    page = (out / "study.html").read_text(encoding="utf-8")

    (out / "study.html").unlink()
    assert main(["study", "--from", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(out / "study.json")
    assert (out / "study.html").read_text(encoding="utf-8") == page

    elsewhere = tmp_path / "elsewhere"
    assert main(["study", "--from", str(out / "study.json"), "--out", str(elsewhere)]) == 0
    assert (elsewhere / "study.html").read_text(encoding="utf-8") == page


def test_targets_and_experiments_are_chosen(asked, capsys) -> None:
    assert main(["study", "--target", "onnxruntime:threads=2", "--experiment", "patch-7", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert asked["targets"] == document["targets"] == ["onnxruntime:cpu:threads=2:precision=fp32"]
    assert [one.name for one in asked["experiments"]] == ["patch-7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "abacus"], "unknown runtime 'abacus'"),
        (["--experiment", "patch-9"], "experiment 'patch-9' is not known"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--launches", "0"], "--launches at least 1"),
        (["--from", "nowhere"], "nowhere: cannot be read"),
        (["--from", "nowhere", "--target", "onnxruntime"], "--from shows an earlier study"),
        (["fast"], "fast"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(asked, capsys, arguments: list[str], message: str) -> None:
    assert main(["study", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
