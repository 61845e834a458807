"""A process that runs one exported file and is told what to do through its standard input.

    python -m efficientformer.latency.worker

Each line in is a JSON request, each line out a JSON reply; `latency/process.py` is the other end. A file
gets a process of its own so that thread pools and allocators of runtimes do not meet, and so that a runtime
that crashes takes nothing with it. Neither torch nor any runtime but the one asked for is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes import RUNTIMES, NoProfilerError, Session, Settings
from efficientformer.runtimes.base import last_line, random_image

Request = dict[str, Any]
Reply = dict[str, Any]
SENTINEL = "sentinel"


class Worker:
    """What a worker holds: one session, and the array it is timed with."""

    def __init__(self) -> None:
        self.path, self.runtime, self.settings = Path(), "", Settings()
        self.session: Session | None = None
        self.call: Callable[[], object] = lambda: None
        self.array = np.zeros(0, np.float32)

    def load(self, request: Request) -> Reply:
        """Pin the process, load a file, and say what it takes."""
        pinned = _pin(request["cpus"])
        self.runtime, self.path = request["runtime"], Path(request["path"])
        self.settings = Settings(**request["settings"])
        if self.runtime == SENTINEL:
            self.call = sentinel_work()
            return {"shape": [], "takes_float32": True, "pinned": pinned}
        session = self.session = RUNTIMES[self.runtime].load(self.path, self.settings)
        if 0 not in session.shape:
            self.array = random_image(session.shape)
        self.call = lambda: session.run(self.array)
        return {"shape": list(session.shape), "takes_float32": session.takes_float32, "pinned": pinned}

    def time(self, request: Request) -> Reply:
        """Milliseconds of so many calls, after one that is not counted."""
        return {"ms": timed(self.call, request["runs"])}

    def run(self, request: Request) -> Reply:
        """Outputs for every image of an .npy file, written to another."""
        if self.session is None:
            raise InputError("nothing is loaded")
        images = np.load(request["images"], allow_pickle=False)
        outputs = [self.session.run(image[None]) for image in images]
        np.save(request["outputs"], np.concatenate(outputs))
        return {}

    def operators(self, request: Request) -> Reply:
        """The runtime's own profile."""
        runtime = RUNTIMES[self.runtime]
        trace = runtime.operators(self.path, self.settings, self.array, request["runs"])
        return dataclasses.asdict(trace)


def timed(call: Callable[[], object], runs: int, before: Callable[[], object] | None = None) -> list[float]:
    """Milliseconds of each of so many calls; one before them brings weights back into the caches.

    Args:
        call: what is timed.
        runs: how often.
        before: called before each, and not timed.
    """
    call()
    taken = []
    for _ in range(runs):
        if before:
            before()
        begun = time.perf_counter_ns()
        call()
        taken.append(round((time.perf_counter_ns() - begun) / 1e6, 6))
    return taken


def sentinel_work() -> Callable[[], object]:
    """A fixed piece of work, about 2 ms: hashing feels the clock, copying feels the shared memory."""
    text, source, target = bytes(1 << 19), np.zeros(1 << 20), np.zeros(1 << 20)

    def work() -> None:
        hashlib.sha256(text).digest()
        np.copyto(target, source)

    return work


def _pin(cpus: list[int]) -> bool:
    """Stay on some processors, where the system lets a process choose."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        return False
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cpus)
        return True
    return False


def answer(worker: Worker, request: Request) -> Reply:
    """Do what a request says; errors are replies."""
    try:
        match request["do"]:
            case "load":
                return worker.load(request)
            case "time":
                return worker.time(request)
            case "run":
                return worker.run(request)
            case "operators":
                return worker.operators(request)
            case other:
                return {"error": f"unknown request {other!r}", "kind": "fault"}
    except NoProfilerError as error:
        return {"error": str(error), "kind": "profiler"}
    except InputError as error:
        return {"error": str(error), "kind": "input"}
    except Exception as error:  # whatever a runtime throws is told, not lost in a dead process
        return {"error": f"{type(error).__name__}: {last_line(error)}", "kind": "fault"}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer until the requests end."""
    worker = Worker()
    for line in requests:
        print(json.dumps(answer(worker, json.loads(line))), file=replies, flush=True)


def main() -> None:
    """Keep standard output for replies alone: what runtimes print goes to standard error.

    Ctrl-C and SIGTERM often reach a whole group of processes. A training then finishes its step, for which it
    needs its teacher: a worker goes on until its standard input is closed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
