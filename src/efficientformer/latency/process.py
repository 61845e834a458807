"""The near end of a worker: start it, ask it, and say in words how it died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.latency.machine import cpus_for
from efficientformer.latency.target import Target
from efficientformer.latency.worker import SENTINEL
from efficientformer.runtimes import NoProfilerError, Operator, Trace, usable

_LONGEST_S = 1800.0  # a request that takes longer hangs
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerError(InputError):
    """A runtime could not run a file: it said why, or it crashed."""


class Process:
    """One exported file in a process of its own.

    Args:
        path: an artefact of the target's runtime; with None it runs the sentinel, a fixed piece of work.
        target: where it runs.

    Raises:
        WorkerError: if the runtime crashes or fails.
        InputError: if it cannot load the file, or is not installed.
    """

    def __init__(self, path: Path | None, target: Target) -> None:
        self.path, self.target = path, target
        if path is not None:
            usable(target.runtime, target.device)
        cpus = cpus_for(target.threads)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "efficientformer.latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **dict.fromkeys(_THREADS, str(target.threads))},
            text=True,
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker was started without pipes")
        self._requests, self._replies = process.stdin, process.stdout
        try:
            about = self._ask(
                {
                    "do": "load",
                    "runtime": target.runtime if path is not None else SENTINEL,
                    "path": str(path),
                    "settings": target.settings.__dict__,
                    "cpus": cpus,
                }
            )
        except BaseException:
            self.close()
            raise
        self.shape, self.takes_float32 = tuple(about["shape"]), about["takes_float32"]
        self.pinned, self.cpus = about["pinned"], tuple(cpus) if about["pinned"] else ()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def time(self, runs: int) -> list[float]:
        """Milliseconds of each of so many inferences on the same random image."""
        return self._ask({"do": "time", "runs": runs})["ms"]

    def run(self, images: np.ndarray) -> np.ndarray:
        """Outputs for images (n, channels, height, width), one at a time."""
        with tempfile.TemporaryDirectory() as folder:
            given, taken = Path(folder) / "images.npy", Path(folder) / "outputs.npy"
            np.save(given, images)
            self._ask({"do": "run", "images": str(given), "outputs": str(taken)})
            return np.load(taken, allow_pickle=False)

    def operators(self, runs: int) -> Trace:
        """The runtime's own profile of the file."""
        reply = self._ask({"do": "operators", "runs": runs})
        operators = tuple(Operator(**one) for one in reply["operators"])
        return Trace(operators, tuple(reply["whole_ms"]), reply["profiler"])

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()
        self._log.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        alarm = threading.Timer(_LONGEST_S, self._process.kill)
        alarm.start()
        try:
            print(json.dumps(request), file=self._requests, flush=True)
            line = self._replies.readline()
        except BrokenPipeError:
            line = ""
        finally:
            alarm.cancel()
        if not line.endswith("\n"):  # nothing, or half a reply
            raise WorkerError(self._died(request["do"]))
        reply = json.loads(line)
        if "error" in reply:
            raise self._error(reply)
        return reply

    def _error(self, reply: dict[str, Any]) -> InputError:
        if reply["kind"] == "input":
            return InputError(reply["error"])
        if reply["kind"] == "profiler":
            return NoProfilerError(reply["error"])
        return WorkerError(f"{self.path}: {self.target.runtime} failed: {reply['error']}")

    def _died(self, doing: str) -> str:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._log.seek(0)
        said = [
            line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()
        ]
        last = f"; its last words: {said[-1]}" if said else ""
        return f"{self.path}: {self.target.runtime} crashed (its process {how}, asked to {doing}){last}"


@contextlib.contextmanager
def processes(files: dict[str, Path], target: Target) -> Generator[dict[str, Process]]:
    """Several files, a process each; all are ended at the end."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Process(path, target)) for name, path in files.items()}
