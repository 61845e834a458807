"""The command line: bad input is one line on standard error and exit code 2; `--json` is one document."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from efficientformer.cli import app, main
from efficientformer.data.batches import Augmentation
from efficientformer.latency.budget import Budget
from efficientformer.pipeline.job import Job
from efficientformer.report.receipt import repeat_command


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Bad folders of each kind, and a good one."""
    for name in ("good/cat", "good/dog", "one/cat", "rotten/cat", "rotten/dog"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    for path in sorted((tmp_path / "rotten" / "dog").iterdir())[:8]:
        path.write_bytes(b"this was a picture once")
    (tmp_path / "empty").mkdir()
    return tmp_path


SLIM = ["slim", "--data", "good", "--budget", "8ms", "--out", "run"]


def slim_with(**changes: str) -> list[str]:
    options = {"--data": "good", "--budget": "8ms", "--out": "run"}
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return ["slim", *(word for pair in options.items() for word in pair)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (slim_with(budget="8"), "budget '8': give a number and its unit, such as 8ms, 500us or 50%"),
        (slim_with(budget="eight ms"), "budget 'eight ms': give a number"),
        (slim_with(budget="0ms"), "must be above zero"),
        (slim_with(data="empty"), "empty: holds no images in class folders"),
        (slim_with(data="one"), "one: holds one class only (cat)"),
        (slim_with(data="nowhere"), "nowhere: no such folder"),
        (slim_with(target="abacus:cpu"), "unknown runtime 'abacus'; known: onnxruntime"),
        (slim_with(target="onnxruntime:gpu"), "runs here on device cpu only"),
        (slim_with(target="onnxruntime:cpu:threads=0"), "threads must be a whole number from 1"),
        (
            slim_with(input_size="100"),
            "input size 100×100: each side must be a multiple of 32; pad to 128×128",
        ),
        (slim_with(supernet="huge"), "unknown supernet 'huge'"),
        (slim_with(epochs="0"), "epochs must be at least 1"),
        (slim_with(colour="red"), "colour"),
        (["slim", "--data", "good"], "budget"),
        (["fly"], "fly"),
        (["measure"], "name at least one model"),
        (["measure", "efficientformer_l9"], "model 'efficientformer_l9' is not known"),
        (["measure", "timm/mobilenetv9"], "timm has no model 'mobilenetv9'; near: mobilenet"),
        (["measure", "empty"], "holds no architecture.json"),
        (["models", "resnet*"], "no model matches 'resnet*'"),
        (["report", "empty"], "empty"),
        (["replay", "empty"], "holds no search"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folders)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert message in captured.err
    assert not (folders / "run").exists()


def test_too_many_unreadable_images_stop_the_run(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from efficientformer.data.folder import scan
    from efficientformer.pipeline import slim
    from efficientformer.pipeline.preflight import Plan

    monkeypatch.chdir(folders)
    assert len(scan(Path("rotten")).classes) == 2
    plan = Plan.__new__(Plan)
    monkeypatch.setattr(slim, "preflight", lambda *_: (plan, None))
    monkeypatch.setattr(Plan, "to_json", lambda _: {})
    assert main(slim_with(data="rotten")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    named = [line for line in lines if "unreadable, left out" in line]
    assert named
    assert all("rotten/dog/" in line for line in named)
    assert lines[-1].startswith("efficientformer: ")
    assert "images are unreadable, more than --max-unreadable 5%; the first: rotten/dog/" in lines[-1]


def test_models_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "*l1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["params"]) == ("efficientformer_l1", 12_289_928)


def test_measure_gives_a_receipt_for_each_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.search.test_slimming import SPACE

    (tmp_path / "small.json").write_text(json.dumps(SPACE.smallest().compact().to_json()))
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "small.json", "timm/mobilenetv2_035", "--input-size", "64", "--json"]) == 0
    receipts = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in receipts] == ["small.json", "timm/mobilenetv2_035"]
    for receipt in receipts:
        assert receipt["p10_ms"] <= receipt["median_ms"] <= receipt["p90_ms"]
        assert receipt["samples"] >= 30
        assert receipt["verdict"] in ("stable", "noisy", "unusable")
        assert receipt["target"] == "onnxruntime:cpu:threads=1:precision=fp32"


@pytest.mark.parametrize("command", ["", "slim", "demo", "measure", "check", "models", "report", "replay"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "Usage: efficientformer" in capsys.readouterr().out


def test_the_command_that_a_report_gives_is_one_the_program_takes() -> None:
    job = Job(Path("photos of cats"), Budget.parse("8ms"), augmentation=Augmentation(0.5, flip=False))
    words = shlex.split(repeat_command(job.to_json()).replace("\\\n", " "))
    command, bound, *_ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert command.__name__ == "slim"
    assert bound.arguments["data"] == Path("photos of cats")
    assert bound.arguments["flip"] is False
    assert bound.arguments["min_area"] == 0.5
