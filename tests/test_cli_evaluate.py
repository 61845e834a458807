"""The command `evaluate`: tables, documents, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from efficientformer import save_model
from efficientformer.cli import main
from efficientformer.data.batches import cached_side
from tests.conftest import MakeImages
from tests.strategies import randomised, tiny

CLASSES = [f"class-{letter}" for letter in "abcdefg"]


@pytest.fixture(autouse=True)
def _at_work(make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of seven classes, a run and another network, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 2), ("val", 6)):
        make_images(dict.fromkeys(CLASSES, count), f"data/{part}", side=44)
    Path("run").mkdir()
    save_model("run/model.safetensors", randomised(tiny(num_classes=7), seed=3))
    about = {"preprocessing": {"resize": cached_side(32), "crop": 32}, "classes": CLASSES}
    Path("run/summary.json").write_text(json.dumps(about))
    save_model("other.safetensors", randomised(tiny(num_classes=7), seed=4))


def evaluated(*arguments: str) -> int:
    return main(["evaluate", *arguments, "--data", "data", "--workers", "0"])


def test_the_table_has_each_network_with_its_number_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("run", "other.safetensors") == 0
    printed = capsys.readouterr().out
    for told in ("data · val, 42 of 42 pictures, 7 classes", "run (37→32, bicubic)", "top-1 %", "ECE %"):
        assert told in printed
    rows = [
        line.split() for line in printed.splitlines() if line.split()[:1] in (["run"], ["other.safetensors"])
    ]
    assert len(rows) == 3  # two networks, one comparison
    assert "beside run, picture by picture" in printed


def test_one_network_is_beside_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("run", "run", "--limit", "5") == 0
    printed = capsys.readouterr().out
    assert "5 of 42 pictures" in printed
    assert "beside" not in printed


def test_the_worst_classes_and_confused_pairs_are_shown_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("run", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["evaluations"]
    assert evaluated("run", "--per-class") == 0
    printed = capsys.readouterr().out
    worst = sorted(one["per_class"], key=lambda row: row["accuracy"])
    shown = printed.partition("the worst classes")[2].partition("most confused")[0]
    listed = [line.split() for line in shown.splitlines() if line.split() and line.split()[0] in CLASSES]
    assert [line[0] for line in listed] == [row["class"] for row in worst]
    assert [line[1:3] for line in listed] == [[str(row["images"]), str(row["right"])] for row in worst]
    pairs = [(row["class"], name, n) for row in one["per_class"] for name, n in row["taken_for"].items()]
    lines = [line.split() for line in printed.partition("most confused")[2].splitlines()]
    confused = [(line[0], line[1], int(line[2])) for line in lines if line and line[0] in CLASSES]
    assert confused
    assert set(confused) <= set(pairs)
    assert [n for *_, n in confused] == sorted((n for *_, n in pairs), reverse=True)[: len(confused)]


def test_the_document_is_printed_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated("run", "other.safetensors", "--json", "--out", "found/scores.json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["format"] == "efficientformer.evaluations/1"
    assert document == json.loads(Path("found/scores.json").read_text())
    assert [one["model"] for one in document["evaluations"]] == ["run", "other.safetensors"]
    (beside,) = document["comparisons"]
    first, second = (one["top1"] for one in document["evaluations"])
    assert beside["difference"] == pytest.approx(second - first)
    assert not list(Path("found").glob("*.partial"))


def test_a_bad_picture_is_told_and_too_many_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/val/class-a/99.png").write_bytes(b"")
    assert evaluated("run", "--json") == 0
    printed = capsys.readouterr()
    (one,) = json.loads(printed.out)["evaluations"]
    assert (one["images"], one["unreadable"]["count"]) == (42, 1)
    assert "99.png" in printed.err
    assert evaluated("run", "--max-unreadable", "0") == 2
    printed = capsys.readouterr()
    assert "1 of 43 images are unreadable" in printed.err.splitlines()[-1]
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one network"),
        (["nothing"], "model 'nothing' is not known"),
        (["efficientformer_l1"], "has no weights of its own"),
        (["run", "--protocol", "mine"], "protocol 'mine' is not known"),
        (["run", "--limit", "0"], "--limit 0"),
        (["run", "--split", "test"], "split"),
        (["run", "--target", "onnx"], "unknown runtime 'onnx'"),
        (["run", "--data", "nowhere"], "nowhere"),
        (["run", "--workers", "-2"], "--workers -2"),
        (["run", "--out", "data"], "--out data: is a folder"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--data" in arguments else ["--data", "data"]
    assert main(["evaluate", *arguments, *given]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
