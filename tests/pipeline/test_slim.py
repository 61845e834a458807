"""The main job on a made-up clock: everything but the timing is real."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from efficientformer import PRESETS, Architecture, InputError, load_model
from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import decode
from efficientformer.data.sources.folder import scan
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.slim import BudgetMissedError, slim
from efficientformer.progress import Progress
from efficientformer.search.journal import Journal, replay, step_of
from tests.pipeline import simulated

QUIET = Progress(None)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr)
        slim(simulated.tiny_job(photos), out, progress=QUIET)
    return out


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_a_run_leaves_everything_the_design_names(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "architecture.json",
        "job.json",
        "journal.jsonl",
        "latency.sqlite",
        "model.onnx",
        "model.safetensors",
        "preflight.json",
        "summary.json",
        "supernet.safetensors",
    }
    assert "work" not in names
    wanted = [
        "budget_ms",
        "predicted_ms",
        "measured_ms",
        "measured_p90_ms",
        "samples",
        "target",
        "top1",
        "images",
        "params",
        "macs",
        "seed",
        "version",
    ]
    assert all(summary_of(finished)[key] is not None for key in wanted)


def test_the_budget_is_met_and_the_journal_replays_to_the_network(finished: Path) -> None:
    summary = summary_of(finished)
    found = Architecture.from_json(json.loads((finished / "architecture.json").read_text()))
    journal = Journal(finished / "journal.jsonl")
    assert summary["measured_ms"] <= 1.02 * summary["budget_ms"]
    path = replay(journal)
    assert path[step_of(found, path, journal)].compact() == found
    assert summary["params"] == sum(
        p.numel() for p in load_model(finished / "model.safetensors").parameters()
    )


def test_a_journal_of_another_run_does_not_lead_to_the_network(finished: Path) -> None:
    journal = Journal(finished / "journal.jsonl")
    with pytest.raises(InputError, match="does not lead to 48:PPP"):
        step_of(PRESETS["efficientformer_l1"], replay(journal), journal)


def test_the_exported_file_gives_the_accuracy_that_the_summary_states(finished: Path, photos: Path) -> None:
    """Scored anew with ONNX Runtime alone."""
    images = decode(scan(photos, 0).val, 37, finished.parent / "val.images")
    session = onnxruntime.InferenceSession(finished / "model.onnx")
    x, labels = next(evaluation_batches(images, 32))
    guesses = [session.run(None, {"images": one[None]})[0].argmax() for one in x.contiguous().numpy()]
    assert (torch.tensor(guesses) == labels).float().mean().item() == pytest.approx(
        summary_of(finished)["top1"]
    )
    assert summary_of(finished)["images"] == len(labels)


def test_a_finished_run_is_not_done_again(finished: Path, photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    again = slim(simulated.tiny_job(photos), finished, progress=QUIET)
    assert again == summary_of(finished)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_another_job_in_the_same_folder_is_refused(finished: Path, photos: Path) -> None:
    with pytest.raises(InputError, match="holds a run with seed 0, not 1"):
        slim(simulated.tiny_job(photos, seed=1), finished, progress=QUIET)


def test_images_that_changed_since_the_run_began_are_refused(tmp_path: Path, photos: Path) -> None:
    import shutil

    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr)
        patch.setattr("efficientformer.pipeline.slim.learn_supernet", stop_here)
        with pytest.raises(KeyboardInterrupt):
            slim(simulated.tiny_job(data), tmp_path / "run", progress=QUIET)
        next((data / "red").iterdir()).unlink()
        with pytest.raises(InputError, match="its files changed since the run"):
            slim(simulated.tiny_job(data), tmp_path / "run", progress=QUIET)


def stop_here(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_unslimmed_network_is_trained_too_if_asked(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr)
    summary = slim(simulated.tiny_job(photos, train_unslimmed=True), tmp_path / "run", progress=QUIET)
    assert summary["accuracy"]["unslimmed, trained"]["images"] == summary["images"]


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path, photos: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from efficientformer.pipeline.folder import RunFolder
with RunFolder(Path({str(tmp_path / "run")!r})).locked():
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process is at work in it"):
            slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
        other.kill()
    with RunFolder(tmp_path / "run").locked():  # its death set the folder free
        pass


def test_a_run_goes_on_when_more_unreadable_images_are_allowed(finished: Path, photos: Path) -> None:
    RunFolder(finished).check(simulated.tiny_job(photos, max_unreadable=0.5))


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        slim(simulated.tiny_job(photos), tmp_path, progress=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_budget_below_the_least_possible_is_refused_before_training(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr)
    monkeypatch.setattr("efficientformer.pipeline.slim.learn_supernet", lambda *_: pytest.fail("trained"))
    with pytest.raises(
        InputError, match=r"budget 0\.001ms: below what the smallest network takes here, 0\.\d+ ms"
    ):
        slim(simulated.tiny_job(photos, "0.001ms"), tmp_path / "run", progress=QUIET)
    # nothing is claimed, so that the same folder can be tried with a greater budget
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"latency.sqlite", ".lock"}


def test_another_latency_table_is_refused_in_a_run_that_has_begun(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr)
    slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
    plan = tmp_path / "run" / "preflight.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"reference_ms": 12.5}))
    with pytest.raises(InputError, match="is not the latency table that the run in"):
        slim(simulated.tiny_job(photos, "50%"), tmp_path / "run", progress=QUIET)


def test_what_a_stop_at_the_very_end_left_is_deleted(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr)
    slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
    (tmp_path / "run" / "work").mkdir()
    (tmp_path / "run" / "work" / "images.npy").write_bytes(b"many")
    slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
    assert not (tmp_path / "run" / "work").exists()


def test_an_export_slower_than_predicted_is_slimmed_further(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr, slower_when_exported=1.3)
    summary = slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    verified = [line for line in lines if line["event"] == "verified"]
    over = [line for line in verified if line["measured_ms"] > 1.02 * summary["budget_ms"]]
    assert over  # the first network missed the budget when its file was measured
    assert summary["measured_ms"] <= 1.02 * summary["budget_ms"]


def test_a_budget_that_stays_missed_is_an_error(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.install(monkeypatch.setattr, slower_when_exported=100.0)
    with pytest.raises(BudgetMissedError, match="after 4 attempts; is the machine busy"):
        slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
    assert not (tmp_path / "run" / "summary.json").exists()
    simulated.install(monkeypatch.setattr)  # the machine is quiet again: what was measured is not believed
    summary = slim(simulated.tiny_job(photos), tmp_path / "run", progress=QUIET)
    assert 0.93 * summary["budget_ms"] <= summary["measured_ms"] <= 1.02 * summary["budget_ms"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [["60%", "precisions=int8"], ["45%,60%", "fine", "policy=bayesian", "paths=near"]],
    ids=["greedy, two precisions", "bayesian near, two budgets"],
)
def test_killed_at_any_moment_it_ends_in_the_same_result(
    tmp_path: Path, photos: Path, asked: list[str]
) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        program = [sys.executable, simulated.__file__, str(photos), str(out), *asked]
        return subprocess.Popen(program, stderr=subprocess.DEVNULL)

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole_s, waits, kills = time.monotonic() - begun, random.Random(0), 0
    while True:
        process = start(tmp_path / "killed")
        try:
            code = process.wait(timeout=whole_s * waits.uniform(0.2, 0.5) * 1.25**kills)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert code == 0
    assert kills >= 2
    names = ("architecture.json", "*.jsonl", "model.safetensors", "supernet.safetensors")
    files = [
        path.relative_to(tmp_path / "whole") for name in names for path in tmp_path.glob(f"whole/**/{name}")
    ]
    assert len(files) >= 6
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    figures = ("top1", "measured_ms", "predicted_ms", "accuracy")
    for path in tmp_path.glob("whole/**/summary.json"):
        whole, killed = (
            summary_of(tmp_path / name / path.parent.relative_to(tmp_path / "whole"))
            for name in ("whole", "killed")
        )
        assert [whole[key] for key in figures] == [killed[key] for key in figures]
