"""`efficientformer profile`: a table, one JSON document, a page; bad input is one line and exit code 2."""

import json
from pathlib import Path

import pytest

from efficientformer.cli import main
from efficientformer.files import write_json
from tests.strategies import tiny

QUICK = ["--seconds", "0.1", "--launches", "1", "--runs", "5"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EFFICIENTFORMER_CACHE", str(tmp_path / "cache"))
    write_json(tmp_path / "tiny.json", tiny().to_json())
    return str(tmp_path / "tiny.json")


def test_a_profile_as_tables_a_document_and_a_page(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, page = tmp_path / "out" / "profile.json", tmp_path / "out" / "profile.html"
    assert main(["profile", model, *QUICK, "--out", str(written), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    for name, _ in tiny().named_layers():
        assert name in printed
    assert "by kind of operator" in printed and "of the unprofiled whole" in printed
    assert "what stands out" in printed
    assert "<svg" in page.read_text()
    document = json.loads(written.read_text())
    assert document["format"] == "efficientformer.profile/1"

    assert main(["profile", model, *QUICK, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert set(again) == set(document)
    assert again["target"] == "onnxruntime:cpu:threads=1:precision=fp32"
    assert again["profiled"]["samples"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile"], "name"),
        (["profile", "alexnet"], "model 'alexnet' is not known"),
        (["profile", "efficientformer_l1", "--target", "abacus"], "unknown runtime 'abacus'"),
        (["profile", "efficientformer_l1", "--runs", "0"], "--runs must be a whole number from 1, not 0"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message.lower() in said.lower() and len(said.splitlines()) == 1
