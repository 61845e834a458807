"""The machine: what it is called, and what it did beside a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch

from efficientformer.latency import machine as module
from efficientformer.latency.machine import (
    Ticks,
    bystanders,
    cpus_for,
    fingerprint,
    private_cache_bytes,
    ticks,
)
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES

TOLD = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")


def test_a_fingerprint_names_what_must_be_the_same() -> None:
    facts = fingerprint(Target())
    assert set(facts) == {"processor", "cores", "governor", "memory", "system", "runtime", "exporter"}
    assert facts["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert facts["exporter"] == f"torch {torch.__version__}"
    assert facts["cores"] == str(os.cpu_count())
    assert all(facts.values())


def test_a_fingerprint_is_of_the_machine_not_of_the_options() -> None:
    assert fingerprint(Target(threads=1)) == fingerprint(Target(threads=2))


def test_another_runtime_version_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = fingerprint(Target()), importlib.metadata.version
    versions = {"onnxruntime": "0.0.1"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    after = fingerprint(Target())
    assert {key for key in before if before[key] != after[key]} == {"runtime"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_has_a_fingerprint_installed_or_not(runtime: str) -> None:
    assert fingerprint(Target(runtime))["runtime"].startswith(f"{runtime} ")


# Which processors


@pytest.mark.parametrize(
    ("allowed", "siblings", "khz", "threads", "expected"),
    [
        ({0, 1, 2, 3}, {}, {}, 1, [3]),  # the first serve interrupts
        ({5, 2, 7}, {}, {}, 2, [5, 7]),
        ({0, 1}, {}, {}, 2, [0, 1]),
        ({0, 1}, {}, {}, 3, []),
        ({4}, {}, {}, 1, [4]),
        ({0, 1, 2, 3}, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, {}, 2, [1, 3]),  # one of each core
        ({0, 1, 2, 3}, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, {}, 3, []),
        ({0, 1, 2, 3}, {}, {0: 5000, 1: 5000, 2: 3000, 3: 3000}, 1, [1]),  # not one of the slow cores
        ({0, 1, 2, 3}, {}, {0: 5000, 1: 5000, 2: 3000, 3: 3000}, 3, [0, 1, 3]),
    ],
)
def test_threads_are_kept_on_the_fastest_cores(
    allowed: set[int],
    siblings: dict[int, str],
    khz: dict[int, int],
    threads: int,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, values in (("topology/thread_siblings_list", siblings), ("cpufreq/cpuinfo_max_freq", khz)):
        for cpu, value in values.items():
            file = tmp_path / f"cpu{cpu}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
    monkeypatch.setattr(module, "_CPUS", tmp_path)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: allowed, raising=False)
    assert cpus_for(threads) == expected


def test_a_system_without_affinity_has_no_processors_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module.os, "sched_getaffinity", raising=False)
    assert cpus_for(1) == []


@pytest.mark.parametrize(
    ("caches", "siblings", "expected"),
    [
        ({"48K": "0", "2048K": "0", "266240K": "0-1"}, "0", 2 * 2**20),
        ({"32K": "0-1", "1024K": "0-1", "32768K": "0-7"}, "0-1", 2**20),  # of both threads of a core
        ({"64K": "0", "512K": "0-3"}, "0", 64 * 2**10),  # cores share the second level
        ({"odd": "0", "2048K": "0-1"}, "0", 2**20),
        ({}, "", 2**20),
    ],
)
def test_the_largest_cache_of_a_core_alone(
    caches: dict[str, str], siblings: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, (size, shared) in enumerate(caches.items()):
        folder = tmp_path / "cpu0" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
        (folder / "shared_cpu_list").write_text(f"{shared}\n")
    if siblings:
        (tmp_path / "cpu0" / "topology").mkdir(parents=True)
        (tmp_path / "cpu0" / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(module, "_CPUS", tmp_path)
    assert private_cache_bytes() == expected


# Bystanders


QUIET = Ticks(at=100.0, busy=50.0, stolen=1.0, ours=10.0)


@pytest.mark.parametrize(
    ("after", "others", "stolen"),
    [
        (Ticks(110.0, 50.0, 1.0, 10.0), 0.0, 0.0),
        (Ticks(110.0, 60.0, 1.0, 20.0), 0.0, 0.0),  # all of it was ours
        (Ticks(110.0, 65.0, 1.0, 20.0), 0.5, 0.0),
        (Ticks(102.0, 54.0, 1.5, 12.0), 1.0, 0.25),
        (Ticks(110.0, 59.0, 1.0, 20.0), 0.0, 0.0),  # never below zero: clocks tick apart
        (Ticks(100.0, 60.0, 2.0, 10.0), None, None),  # no time passed
        (None, None, None),
    ],
)
def test_what_happened_between_two_looks(
    after: Ticks | None, others: float | None, stolen: float | None
) -> None:
    beside = bystanders(QUIET, after)
    assert (beside.others_cores, beside.stolen_cores) == (others, stolen)
    assert beside.load >= 0


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", lambda path: SimpleNamespace(exists=lambda: False))
    assert ticks() is None
    beside = bystanders(None, None)
    assert (beside.others_cores, beside.stolen_cores) == (None, None)
    monkeypatch.setattr(module, "os", SimpleNamespace())
    assert bystanders(None, None).load == 0


@TOLD
def test_our_own_processes_count_as_ours() -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before, alone = ticks([burner.pid]), ticks()
        time.sleep(0.5)
        after, alone_after = ticks([burner.pid]), ticks()
    finally:
        burner.kill()
        burner.wait()
    assert before and after and alone and alone_after
    ours, without = after.ours - before.ours, alone_after.ours - alone.ours
    assert ours > without + 0.05  # a tenth of a core at the least, on however busy a machine
    assert after.busy - before.busy >= 0.05
    seen, unseen = bystanders(before, after).others_cores, bystanders(alone, alone_after).others_cores
    assert seen is not None
    assert unseen is not None
    assert unseen > seen


@TOLD
def test_a_process_that_ended_is_no_hindrance() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    ended = ticks([process.pid])
    assert ended is not None
    assert ended.ours > 0
