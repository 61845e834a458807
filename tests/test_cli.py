"""The command line: bad input is one line on standard error and exit code 2; `--json` is one document."""

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image

import efficientformer
from efficientformer import InputError
from efficientformer.cli import COMMANDS, app, main
from efficientformer.cli.check import ADVICE, state
from efficientformer.cli.measure import _complain as complain
from efficientformer.data.augmentation import Augmentation
from efficientformer.latency.artefact import ExportMismatchError
from efficientformer.latency.budget import Budget
from efficientformer.latency.matrix import Failure, Matrix
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.pipeline import ship
from efficientformer.pipeline.job import Job
from efficientformer.report.receipt import repeat_command
from efficientformer.runtimes import RUNTIMES
from efficientformer.training.stopping import Stopped
from tests.latency.files import conv_file
from tests.strategies import tiny


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
        (slim_with(target="onnxruntime:npu"), "onnxruntime knows device cpu, cuda only"),
        (slim_with(target="onnxruntime:cpu:threads=0"), "threads must be a whole number from 1"),
        (
            slim_with(input_size="100"),
            "input size 100×100: each side must be a multiple of 32; pad to 128×128",
        ),
        (slim_with(precisions="fp32,int4"), "precision=int4': onnxruntime knows precision fp32, int8 only"),
        (slim_with(supernet="huge"), "unknown supernet 'huge'"),
        (slim_with(epochs="0"), "epochs must be at least 1"),
        (slim_with(colour="red"), "colour"),
        (["slim", "--data", "good"], "budget"),
        (["fly"], "fly"),
        (["measure"], "name at least one model"),
        (["measure", "efficientformer_l9"], "model 'efficientformer_l9' is not known"),
        (["measure", "timm/mobilenetv9"], "timm has no model 'mobilenetv9'; near: mobilenet"),
        (["measure", "empty"], "holds no architecture.json"),
        (["measure", "efficientformer_l1", "--target", "abacus"], "unknown runtime 'abacus'"),
        (["measure", "efficientformer_l1", "--against", "none.json"], "none.json: holds no receipts"),
        (["measure", "efficientformer_l1", "--input-size", "100"], "pad to 128×128"),
        (["check", "--target", "abacus"], "unknown runtime 'abacus'"),
        (["export"], "parameter --model requires an argument"),
        (["export", "nothing"], "model 'nothing' is not known"),
        (["export", "efficientformer_l1", "--to", "onnxruntime,abacus"], "unknown runtime 'abacus'"),
        (["export", "efficientformer_l1", "--to", ""], "unknown runtime ''"),
        (["export", "efficientformer_l1", "--images", "empty"], "empty: holds 0 readable pictures"),
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
    assert not (folders / "exports").exists()


@pytest.mark.parametrize(
    ("words", "paths", "elastic"),
    [
        ("", "near", False),
        ("--policy evolution", "near", False),
        ("--policy exact", "even", True),
        ("--policy exact --no-elastic", "even", False),
        ("--policy exact --paths soft", "soft", False),
        ("--policy greedy", "soft", False),
        ("--policy greedy --elastic", "soft", True),
        ("--policy bayesian --paths even --elastic", "even", True),
    ],
)
def test_the_supernet_suits_the_policy_where_nothing_is_said(
    folders: Path, monkeypatch: pytest.MonkeyPatch, words: str, paths: str, elastic: bool
) -> None:
    asked: list[Job] = []

    def stop(job: Job, *_: object) -> None:
        asked.append(job)
        raise InputError("far enough")

    monkeypatch.chdir(folders)
    monkeypatch.setattr("efficientformer.cli.slim.slim_to_budgets", stop)
    assert main([*SLIM, *words.split()]) == 2
    assert (asked[0].sampling.paths, asked[0].sampling.elastic) == (paths, elastic)


def test_too_many_unreadable_images_stop_the_run(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from efficientformer.data.sources.folder import scan
    from efficientformer.pipeline import slim
    from efficientformer.pipeline.preflight import Plan

    monkeypatch.chdir(folders)
    assert len(scan(Path("rotten")).classes) == 2
    plan = Plan.__new__(Plan)
    monkeypatch.setattr(slim, "preflight", lambda *_: [(plan, None)])
    monkeypatch.setattr(Plan, "to_json", lambda _: {})
    monkeypatch.setattr(Plan, "from_json", lambda _: plan)
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


QUICK = ["--seconds", "0.02", "--launches", "1"]


def test_measure_gives_a_receipt_for_each_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.search.policies.test_greedy import SPACE

    (tmp_path / "small.json").write_text(json.dumps(SPACE.smallest().compact().to_json()))
    monkeypatch.chdir(tmp_path)
    words = ["measure", "small.json", "timm/test_resnet", "--input-size", "64", "--json", *QUICK]
    assert main(words) == 0
    receipts = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in receipts] == ["small.json", "timm/test_resnet"]
    for receipt in receipts:
        assert receipt["p10_ms"] <= receipt["median_ms"] <= receipt["p90_ms"]
        assert receipt["samples"] >= 60
        assert receipt["verdict"] in ("stable", "noisy", "unusable")
        assert receipt["target"] == "onnxruntime:cpu:threads=1:precision=fp32"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two exported files, in the folder that the program is started in."""
    conv_file(tmp_path / "a.onnx", channels=4)
    conv_file(tmp_path / "b.onnx", channels=16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_several_targets_make_a_matrix(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["--target", "onnxruntime", "--target", "onnxruntime:threads=2"]
    assert main(["measure", "a.onnx", "b.onnx", *targets, "--out", "matrix.json", *QUICK]) == 0
    printed = capsys.readouterr().out
    for words in (
        "onnxruntime:threads=2",
        "× a.onnx in the same run",
        "median ms",
        "p10–p90",
        "verdict",
        "a.onnx",
        "b.onnx",
    ):
        assert words in printed
    assert "too few models (n = 2)" in " ".join(printed.split())
    document = json.loads((files / "matrix.json").read_text())
    assert document["format"] == "efficientformer.matrix/1"
    pairs = [(one["model"], one["target"]) for one in document["receipts"]]
    assert [name for name, _ in pairs] == ["a.onnx", "b.onnx"] * 2
    assert len({target for _, target in pairs}) == 2
    assert document["failures"] == []


def test_against_earlier_receipts_and_a_pair_that_fails(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    then = Measurement("a.onnx", str(Target()), (1e6,) * 30, {"cores": "0"}, "2026-01-01")
    (files / "then.json").write_text(json.dumps([then.to_json()]))
    targets = ["--target", "onnxruntime", "--target", "openvino"]
    words = ["measure", "a.onnx", *targets, "--against", "then.json", "--out", "new.json", *QUICK]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert "against the earlier receipts" in printed.out
    assert "1000000.000" in printed.out
    assert "apart, but machine or versions differ" in " ".join(printed.out.split())
    assert printed.out.index("a.onnx") < printed.out.index("against")
    error = [line for line in printed.err.splitlines() if line.startswith("efficientformer: ")]
    assert len(error) == 1
    assert error[0].startswith(
        "efficientformer: not measured: a.onnx on openvino:cpu:threads=1:precision=fp32: "
    )
    document = json.loads((files / "new.json").read_text())  # written all the same
    assert [one["target"] for one in document["failures"]] == ["openvino:cpu:threads=1:precision=fp32"]
    assert len(document["receipts"]) == 1


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_failures_are_told_in_one_line(count: int) -> None:
    failures = [Failure(f"m{index}", "t", f"because {index}") for index in range(count)]
    with pytest.raises(InputError, match="not measured: m0 on t: because 0") as caught:
        complain(Matrix({}, failures))
    told = str(caught.value)
    assert sum(f"because {index}" in told for index in range(count)) == min(count, 4)
    assert told.endswith(f"and {count - 4} more") is (count > 4)
    complain(Matrix({}))


# Exporting


@pytest.fixture
def timed_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly = functools.partial(ship.measure_files, launches=1, rounds=4, seconds=0.02)
    monkeypatch.setattr(ship, "measure_files", quickly)


@pytest.mark.usefixtures("timed_quickly")
def test_export_writes_files_and_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.json").write_text(json.dumps(tiny().to_json()))
    monkeypatch.chdir(tmp_path)
    words = ["export", "small.json", "--to", "onnxruntime,onnxruntime:precision=int8", "--out", "files"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith(
        "efficientformer: onnxruntime:cpu:threads=1:precision=int8: int8 needs images"
    )
    assert {one.name for one in (tmp_path / "files").iterdir()} == {"small.onnx", "small.export.json"}
    document = json.loads((tmp_path / "files" / "small.export.json").read_text())
    assert document["format"] == "efficientformer.export/1"
    fine, failed = document["files"]
    assert fine["artefact"]["max_difference"] <= fine["artefact"]["bound"] == 1e-4
    assert fine["latency"]["samples"] >= 60
    assert failed["artefact"] is failed["latency"] is None
    assert "int8 needs images" in failed["error"]
    table = " ".join(printed.out.split())
    assert "small.onnx" in table
    assert "not exported" in table
    assert "the weights are random: these files are for timing" in table
    assert "at most 0.0001 in fp32" in table


def test_a_file_that_computes_something_else_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(network: object, path: Path, target: Target, *_: object, **__: object) -> None:
        if target.precision == "int8":
            raise InputError("the runtime cannot")
        raise ExportMismatchError(f"{path}: differs by 0.5")

    monkeypatch.setattr(ship, "export", export)
    (tmp_path / "small.json").write_text(json.dumps(tiny().to_json()))
    monkeypatch.chdir(tmp_path)
    words = ["export", "small.json", "--to", "onnxruntime:precision=int8,onnxruntime"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].endswith("exports/small.onnx: differs by 0.5")
    assert "failed" in printed.out
    assert main([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [one["error"] for one in document["files"]] == [
        "the runtime cannot",
        "exports/small.onnx: differs by 0.5",
    ]
    assert json.loads((tmp_path / "exports" / "small.export.json").read_text()) == document


# Checking


def test_check_says_what_this_machine_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"processor", "cores", "memory", "python", "torch", "accelerator"} <= set(facts)
    assert {f"runtime {name}" for name in RUNTIMES} <= set(facts)
    assert "fp32, int8" in facts["runtime onnxruntime"]
    assert re.search(
        r"[0-9.]+ ms \(p10–p90 .*, n=\d+, (stable|noisy|unusable)\)", facts["a fixed piece of work"]
    )
    assert any(facts["so"].endswith(advice) for advice in ADVICE.values())


def test_a_runtime_that_does_not_work_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state("onnxruntime").startswith(onnxruntime.__version__)
    monkeypatch.setattr(type(RUNTIMES["onnxruntime"]), "trouble", lambda self: "it is not installed")
    assert state("onnxruntime") == "it is not installed"


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Usage: efficientformer" in printed
    if not command:
        assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_does_not_wait_for_torch(word: str) -> None:
    program = f"""
import sys
from efficientformer.cli import main
code = main([{word!r}])
print([name for name in ("torch", "timm", "scipy", "onnxruntime") if name in sys.modules], code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_the_program_can_be_run_as_a_module() -> None:
    words = [sys.executable, "-m", "efficientformer.cli", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, efficientformer.__version__)


def test_the_command_that_a_report_gives_is_one_the_program_takes() -> None:
    budgets = (Budget.parse("8ms"), Budget.parse("50%"))
    job = Job(
        Path("photos of cats"),
        budgets,
        precisions=("fp32", "int8"),
        expansions=(2, 3),
        augmentation=Augmentation(0.5, flip=False),
    )
    words = shlex.split(repeat_command(job.to_json()).replace("\\\n", " "))
    command, bound, *_ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert command.__name__ == "slim"
    assert bound.arguments["data"] == Path("photos of cats")
    assert bound.arguments["flip"] is False
    assert bound.arguments["budget"] == "8ms,50%"
    assert bound.arguments["space"].kinds == "pool,ffn,attention"
    assert bound.arguments["space"].expansions == "2,3"
    assert bound.arguments["precisions"] == "fp32,int8"
    assert bound.arguments["space"].activations == ""
    assert bound.arguments["min_area"] == 0.5


@pytest.mark.parametrize(
    ("stop", "train", "slim"),
    [
        (KeyboardInterrupt(), 130, 130),
        (Stopped(terminated=False), 130, 130),
        (Stopped(terminated=True), 0, 143),
    ],
    ids=["Ctrl-C", "Ctrl-C in a training", "SIGTERM in a training"],
)
def test_the_exit_code_of_a_program_that_was_stopped(
    folders: Path, monkeypatch: pytest.MonkeyPatch, stop: KeyboardInterrupt, train: int, slim: int
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.chdir(folders)
    monkeypatch.setattr("efficientformer.cli.train.run_train", stopped)
    monkeypatch.setattr("efficientformer.cli.slim.slim_to_budgets", stopped)
    assert main(["train", "efficientformer_l1", "--data", "good", "--out", "run"]) == train
    assert main(SLIM) == slim
