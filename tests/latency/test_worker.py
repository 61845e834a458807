"""The far end: what a worker answers, what it prints, what it imports."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientformer import InputError
from efficientformer.latency import worker as module
from efficientformer.latency.worker import SENTINEL, Worker, answer, serve, timed
from efficientformer.runtimes import NoProfilerError, UnsupportedOperatorError
from tests.latency.conftest import FakeTime

SETTINGS = {"device": "cpu", "threads": 1, "precision": "fp32"}


def load(path: Path | None, runtime: str = "onnxruntime") -> dict[str, Any]:
    return {"do": "load", "runtime": runtime, "path": str(path), "settings": SETTINGS, "cpus": []}


def test_samples_are_taken_after_one_that_is_not_counted(fake_time: FakeTime) -> None:
    lasting = fake_time.lasting(iter([9.0, 1.0, 2.0, 3.0]))
    assert timed(lasting, 3) == [1.0, 2.0, 3.0]


def test_a_worker_loads_times_and_runs_a_file(small_file: Path, tmp_path: Path) -> None:
    worker = Worker()
    about = answer(worker, load(small_file))
    assert about == {"shape": [1, 3, 32, 32], "takes_float32": True, "pinned": False}
    assert len(answer(worker, {"do": "time", "runs": 4})["ms"]) == 4
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32), dtype=np.float32)
    given, taken = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(given, images)
    assert answer(worker, {"do": "run", "images": str(given), "outputs": str(taken)}) == {}
    assert worker.session is not None
    expected = np.concatenate([worker.session.run(one[None]) for one in images])
    assert np.array_equal(np.load(taken), expected)
    assert expected.shape == (5, 3)


def test_a_worker_profiles_a_file(small_file: Path) -> None:
    worker = Worker()
    answer(worker, load(small_file))
    trace = answer(worker, {"do": "operators", "runs": 3})
    kinds = {one["kind"] for one in trace["operators"]}
    assert {"Conv", "MatMul"} <= kinds
    assert len(trace["whole_ms"]) == 3
    json.dumps(trace)


def test_the_sentinel_is_always_the_same_piece_of_work() -> None:
    worker = Worker()
    assert answer(worker, load(None, SENTINEL)) == {"shape": [], "takes_float32": True, "pinned": False}
    assert len(answer(worker, {"do": "time", "runs": 2})["ms"]) == 2
    assert "nothing is loaded" in answer(worker, {"do": "run", "images": "", "outputs": ""})["error"]


class Failing:
    """In the place of a worker: does what it is told with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fail(self, _: dict[str, Any]) -> dict[str, Any]:
        raise self.error

    load = time = run = operators = fail


@pytest.mark.parametrize("do", ["load", "time", "run", "operators"])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (NoProfilerError("it has none"), "profiler", "it has none"),
        (InputError("a.onnx: is no model"), "input", "a.onnx: is no model"),
        (UnsupportedOperatorError("no Erf"), "input", "no Erf"),
        (RuntimeError("line one\nline two\n"), "fault", "RuntimeError: line two"),
        (KeyError(), "fault", "KeyError: KeyError"),
        (MemoryError("no room"), "fault", "MemoryError: no room"),
    ],
)
def test_errors_are_replies(do: str, error: Exception, kind: str, words: str) -> None:
    worker: Any = Failing(error)
    assert answer(worker, {"do": do}) == {"error": words, "kind": kind}


def test_an_unknown_request_is_a_fault() -> None:
    assert answer(Worker(), {"do": "dance"}) == {"error": "unknown request 'dance'", "kind": "fault"}


def test_each_line_in_gives_one_line_out(tmp_path: Path) -> None:
    requests = [
        load(tmp_path / "none.onnx"),
        {"do": "dance"},
        load(None, SENTINEL),
        {"do": "time", "runs": 1},
    ]
    replies = io.StringIO()
    serve(io.StringIO("".join(json.dumps(one) + "\n" for one in requests)), replies)
    first, second, third, fourth = map(json.loads, replies.getvalue().splitlines())
    assert first["kind"] == "input"
    assert "none.onnx: ONNX Runtime cannot load it" in first["error"]
    assert second["kind"] == "fault"
    assert third["takes_float32"]
    assert len(fourth["ms"]) == 1


@pytest.mark.parametrize("error", [OSError("not here"), None])
def test_a_system_that_does_not_let_a_process_choose_its_processors(
    error: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[list[int]] = []

    def choose(pid: int, cpus: list[int]) -> None:
        if error:
            raise error
        chosen.append(cpus)

    monkeypatch.setattr(module.os, "sched_setaffinity", choose, raising=False)
    assert module._pin([3]) is (error is None)
    assert module._pin([]) is False
    assert chosen == ([] if error else [[3]])


# In a process


NOISY = """
import os, sys
import numpy as np
from efficientformer.latency import worker
class Session:
    shape, takes_float32 = (1, 3, 8, 8), True
    def run(self, array):
        print("a line of Python's")
        os.write(1, b"a line of C's\\n")
        os.system("echo a line of the child")
        return np.zeros((1, 3), np.float32)
class Noisy:
    def load(self, path, settings):
        print("loading", path)
        return Session()
worker.RUNTIMES["noisy"] = Noisy()
worker.main()
"""


def python(program: str, standard_input: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, input=standard_input, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_what_a_runtime_prints_is_no_reply(small_file: Path) -> None:
    requests = [load(small_file, "noisy"), {"do": "time", "runs": 2}]
    done = python(NOISY, "".join(json.dumps(one) + "\n" for one in requests))
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [sorted(reply) for reply in replies] == [["pinned", "shape", "takes_float32"], ["ms"]]
    assert f"loading {small_file}" in done.stderr
    for words in ("a line of Python's", "a line of C's", "a line of the child"):
        assert done.stderr.count(words) == 3


IMPORTS = """
import json, sys
from efficientformer.latency.worker import Worker, answer
before = sorted(sys.modules)
worker = Worker()
replies = [answer(worker, json.loads(line)) for line in sys.stdin]
print(json.dumps([before, sorted(sys.modules), replies]))
"""


def test_neither_torch_nor_timm_nor_another_runtime_is_imported(small_file: Path) -> None:
    requests = [load(small_file), {"do": "time", "runs": 1}, {"do": "operators", "runs": 1}]
    done = python(IMPORTS, "".join(json.dumps(one) + "\n" for one in requests))
    before, after, replies = json.loads(done.stdout)
    assert not any("error" in reply for reply in replies)
    heavy = {"torch", "timm", "torchvision", "scipy", "openvino", "ncnn", "executorch", "ai_edge_litert"}
    assert not heavy & {"onnxruntime", *before}
    assert "onnxruntime" not in before
    assert "onnxruntime" in after
    assert not heavy & {*after}
