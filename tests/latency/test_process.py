"""The near end: files run in processes of their own, and what is said when one fails or dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from efficientformer import InputError
from efficientformer.latency import process as module
from efficientformer.latency.machine import cpus_for
from efficientformer.latency.process import Process, WorkerError, processes
from efficientformer.latency.target import Target
from efficientformer.runtimes import MissingRuntimeError, NoProfilerError
from tests.latency.files import relu_file

TARGET = Target()


def test_it_tells_what_a_file_takes(small_process: Process) -> None:
    assert small_process.shape == (1, 3, 32, 32)
    assert small_process.takes_float32
    assert small_process.pid != os.getpid()


def test_samples_are_milliseconds(small_process: Process) -> None:
    samples = small_process.time(20)
    assert len(samples) == 20
    assert all(0 < sample < 1000 for sample in samples)
    assert small_process.time(0) == []


def test_outputs_are_those_of_this_process(small_file: Path, small_process: Process) -> None:
    images = np.random.default_rng(1).standard_normal((3, 3, 32, 32), dtype=np.float32)
    session = onnxruntime.InferenceSession(small_file, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": image[None]})[0] for image in images])
    assert np.allclose(small_process.run(images), expected, atol=1e-6)


def test_the_runtimes_own_profile(small_process: Process) -> None:
    trace = small_process.operators(4)
    assert [one.kind for one in trace.operators if one.kind in ("Conv", "MatMul")] == ["Conv", "MatMul"]
    assert len(trace.whole_ms) == 4
    assert trace.profiler


def test_an_error_leaves_the_process_alive(small_process: Process) -> None:
    with pytest.raises(WorkerError, match=r"small\.onnx: onnxruntime failed: ") as caught:
        small_process.run(np.zeros((1, 5, 32, 32), np.float32))
    assert "\n" not in str(caught.value)
    assert len(small_process.time(1)) == 1


def test_a_process_keeps_to_its_processors(small_process: Process) -> None:
    cpus = cpus_for(TARGET.threads)
    assert small_process.pinned is bool(cpus)
    assert small_process.cpus == tuple(cpus)
    if cpus:
        assert os.sched_getaffinity(small_process.pid) == set(cpus)


# Death


def test_a_crash_names_file_runtime_and_signal(tmp_path: Path) -> None:
    with Process(relu_file(tmp_path / "crash.onnx", [1, 3, 8, 8]), TARGET) as process:
        os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(WorkerError, match="SIGSEGV") as caught:
            process.time(5)
        assert str(caught.value) == (
            f"{tmp_path}/crash.onnx: onnxruntime crashed (its process was ended by SIGSEGV, asked to time)"
        )
        with pytest.raises(WorkerError, match="SIGSEGV"):  # and stays dead
            process.time(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_outlives_what_asks_its_whole_group_to_stop(tmp_path: Path, number: int) -> None:
    process = Process(relu_file(tmp_path / "a.onnx", [1, 8]), TARGET)
    os.kill(process.pid, number)
    assert process.run(np.ones((1, 8), np.float32)).sum() == 8
    process.close()
    assert process._process.returncode == 0


def test_all_processes_are_ended_at_the_end(tmp_path: Path) -> None:
    files = {"a": relu_file(tmp_path / "a.onnx", [1, 8]), "none": tmp_path / "none.onnx"}
    with pytest.raises(InputError, match=r"none\.onnx"), processes(files, TARGET):
        pytest.fail("one of them cannot be loaded")
    started: list[Process] = []
    with pytest.raises(KeyError), processes({"a": files["a"]}, TARGET) as running:
        started.extend(running.values())
        raise KeyError
    assert [one._process.returncode for one in started] == [0]


def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Callable[[], Process]:
    """Processes that run a shell script in the place of a worker."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(program))
    return lambda: Process(tmp_path / "a.onnx", TARGET)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "crashed (its process ended with exit code 3, asked to load)"),
        ("exit 0", "ended with exit code 0, asked to load"),
        ("echo one >&2; echo 'no room left' >&2; exit 1", "asked to load); its last words: no room left"),
        ("read request; kill -ABRT $$", "was ended by SIGABRT, asked to load"),
        ("read request; printf '\\377\\376 bad\\n' >&2; exit 1", "its last words: \ufffd\ufffd bad"),
    ],
)
def test_a_worker_that_dies_says_how(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = scripted(tmp_path, monkeypatch, script)
    with pytest.raises(WorkerError) as caught:
        start()
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/a.onnx: onnxruntime crashed (")
    assert "\n" not in str(caught.value)


ABOUT = json.dumps({"shape": [1, 8], "takes_float32": True, "pinned": False})


@pytest.mark.parametrize(
    ("kind", "expected", "message"),
    [
        ("input", InputError, "what is wrong"),
        ("profiler", NoProfilerError, "what is wrong"),
        ("fault", WorkerError, "{path}: onnxruntime failed: what is wrong"),
    ],
)
def test_errors_travel(
    kind: str, expected: type, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = json.dumps({"error": "what is wrong", "kind": kind})
    start = scripted(tmp_path, monkeypatch, f"read a; echo '{ABOUT}'; read b; echo '{reply}'; read c")
    with start() as process, pytest.raises(expected) as caught:
        process.operators(1)
    assert type(caught.value) is expected
    assert str(caught.value) == message.format(path=tmp_path / "a.onnx")


def test_a_worker_is_told_how_many_threads_every_library_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        f'read a; echo \'{ABOUT}\'; read b; echo "{{\\"ms\\": [$OMP_NUM_THREADS, $MKL_NUM_THREADS]}}"; read c'
    )
    scripted(tmp_path, monkeypatch, script)
    with Process(tmp_path / "a.onnx", Target(threads=2)) as process:
        assert process.time(1) == [2, 2]


def test_a_worker_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = scripted(tmp_path, monkeypatch, f"read a; echo '{ABOUT}'; exec sleep 600")
    process = start()
    wait = process._process.wait
    monkeypatch.setattr(process._process, "wait", lambda timeout=None: wait(timeout and 0.1))
    process.close()
    assert process._process.returncode == -signal.SIGKILL


# What is refused


@pytest.mark.parametrize(
    ("name", "content"), [("none.onnx", None), ("empty.onnx", b""), ("notes.onnx", b"not a model")]
)
def test_a_file_that_cannot_be_loaded_is_the_users_error(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: ONNX Runtime cannot load it") as caught:
        Process(path, TARGET)
    assert not isinstance(caught.value, WorkerError)
    assert "\n" not in str(caught.value)


def test_a_runtime_that_is_not_here_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        pytest.fail("started")

    monkeypatch.setattr(module.subprocess, "Popen", start)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingRuntimeError, match="onnxruntime: the installed onnxruntime has no CUDA"):
        Process(Path("a.onnx"), Target(device="cuda"))
