"""Networks and files timed against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from efficientformer.latency import bench as module
from efficientformer.latency.artefact import ExportMismatchError
from efficientformer.latency.bench import time_entries, time_survivors
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.process import WorkerError
from efficientformer.latency.target import Target

NETWORK = (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval(), (3, 8, 8))


def receipt(name: str, spread: float = 0.0) -> Measurement:
    samples = tuple(map(float, np.linspace(1 - spread, 1 + spread, 101)))
    return Measurement(name, str(Target()), samples, {"cores": "2"}, "2026-01-01")


def test_files_stay_and_networks_are_exported(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def measure_files(files: dict[str, Path], target: Target, **settings: Any) -> dict[str, Measurement]:
        assert all(file.exists() for file in files.values())
        seen.append((files, settings))
        return {name: receipt(name) for name in files}

    monkeypatch.setattr(module, "measure_files", measure_files)
    taken = time_entries({"file": small_file, "network": NETWORK}, Target(), seconds=0.5)
    ((files, settings),) = seen
    assert files["file"] == small_file
    assert files["network"] != small_file
    assert not files["network"].exists()  # gone, as nobody asked for it
    assert settings == {"seconds": 0.5}
    assert list(taken) == ["file", "network"]


def test_it_is_measured_again_while_unusable(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spreads = iter([0.9, 0.05, 0.0])
    monkeypatch.setattr(module, "measure_files", lambda *_, **__: {"a": receipt("a", next(spreads))})
    assert time_entries({"a": small_file}, Target())["a"].spread == pytest.approx(0.05)
    assert next(spreads) == 0.0


def test_a_wrong_export_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        network[1].bias.fill_(float("nan"))
    monkeypatch.setattr(module, "measure_files", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ExportMismatchError):
        time_entries({"a": (network, (3, 8, 8))}, Target())


def crashing(*broken: str):
    """A `measure_files` in which some files crash, one after the other."""

    def measure_files(files: dict[str, Path], target: Target, **_: Any) -> dict[str, Measurement]:
        for name in broken:
            if name in files:
                raise WorkerError(f"{files[name]}: crashed")
        return {name: receipt(name) for name in files}

    return measure_files


@pytest.mark.parametrize("broken", [(), ("b",), ("a", "c"), ("a", "b", "c")])
def test_files_that_crash_are_left_out(broken: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: Path(f"{name}.onnx") for name in "abc"}
    monkeypatch.setattr(module, "measure_files", crashing(*broken))
    receipts, crashed = time_survivors(files, Target())
    assert list(receipts) == [name for name in "abc" if name not in broken]
    assert crashed == {name: f"{name}.onnx: crashed" for name in broken}


def test_a_crash_that_is_no_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_files(*_: Any, **__: Any) -> dict[str, Measurement]:
        raise WorkerError("crashed once")

    monkeypatch.setattr(module, "measure_files", measure_files)
    with pytest.raises(WorkerError, match="crashed once"):
        time_survivors({"a": Path("a.onnx")}, Target())
