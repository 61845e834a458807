"""Exports kept for the next time: under a key of everything they were made from, whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from efficientformer import InputError
from efficientformer.latency import exports as module
from efficientformer.latency.artefact import Artefact, ExportMismatchError
from efficientformer.latency.exports import cache_folder, exported
from efficientformer.latency.subjects import Subject
from efficientformer.latency.target import Target

TARGET = Target()
SUBJECT = Subject("a/small", (3, 8, 8), 1, 1, "identity", nn.Flatten, {})
PROOF = Artefact("model.onnx", str(TARGET), 10, 1.0, 0.0, 1e-4, 2, False, 1.0)


class Exporter:
    """In the place of an export: writes a file, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error: BaseException | None = None

    def __call__(
        self, network: nn.Module, path: Path, target: Target, images: Any, **options: Any
    ) -> Artefact:
        self.asked.append({"network": network, "target": target, "images": images, **options})
        path.write_bytes(b"half a file")
        if self.error:
            raise self.error
        return dataclasses.replace(PROOF, path=path.name, target=str(target))


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    made = Exporter()
    monkeypatch.setattr(module, "export", made)
    return made


def test_the_second_time_nothing_is_exported(exporter: Exporter, tmp_path: Path) -> None:
    path, proof = exported(SUBJECT, TARGET, tmp_path)
    assert path.read_bytes() == b"half a file"
    assert path.parent.parent == tmp_path / "exports"
    assert path.parent.name.startswith("small-onnxruntime-fp32-")
    assert proof == PROOF
    assert exported(SUBJECT, TARGET, tmp_path) == (path, proof)
    assert len(exporter.asked) == 1


@pytest.mark.parametrize(
    ("subject", "target"),
    [
        (dataclasses.replace(SUBJECT, identity="other weights"), TARGET),
        (dataclasses.replace(SUBJECT, image=(3, 16, 16)), TARGET),
        (dataclasses.replace(SUBJECT, image=(1, 8, 8)), TARGET),
        (SUBJECT, Target(precision="int8")),
        (SUBJECT, Target(device="cuda")),
        (SUBJECT, Target("openvino")),
    ],
)
def test_another_network_or_target_is_another_file(
    subject: Subject, target: Target, exporter: Exporter, tmp_path: Path
) -> None:
    assert exported(SUBJECT, TARGET, tmp_path)[0] != exported(subject, target, tmp_path)[0]
    assert len(exporter.asked) == 2


def test_threads_share_a_file(exporter: Exporter, tmp_path: Path) -> None:
    assert exported(SUBJECT, TARGET, tmp_path) == exported(SUBJECT, Target(threads=4), tmp_path)
    assert len(exporter.asked) == 1


def test_a_runs_own_file_is_what_is_measured(exporter: Exporter, tmp_path: Path) -> None:
    run = dataclasses.replace(SUBJECT, files={"onnxruntime": tmp_path / "model.onnx"})
    assert exported(run, TARGET, tmp_path) == (tmp_path / "model.onnx", None)
    assert not exporter.asked
    for other in (Target("openvino"), Target(precision="int8")):  # it has no file of those
        assert exported(run, other, tmp_path)[1] is not None


def test_a_folder_that_is_not_whole_is_made_anew(exporter: Exporter, tmp_path: Path) -> None:
    path, _ = exported(SUBJECT, TARGET, tmp_path)
    (path.parent / "artefact.json").unlink()
    assert exported(SUBJECT, TARGET, tmp_path) == (path, PROOF)
    assert len(exporter.asked) == 2


@pytest.mark.parametrize("package", ["torch", "timm", "onnxruntime", "onnx", "onnxscript"])
def test_another_version_of_a_package_is_another_file(
    package: str, exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = exported(SUBJECT, TARGET, tmp_path)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == package else real(name))
    assert exported(SUBJECT, TARGET, tmp_path)[0] != first
    assert len(exporter.asked) == 2


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("architecture.py", True),
        ("layers.py", True),
        ("model/deploy.py", True),
        ("model/blocks/attention.py", True),
        ("latency/untrained.py", True),
        ("runtimes/onnx_files.py", True),
        ("runtimes/onnxruntime/int8.py", True),
        ("runtimes/tflite/runtime.py", False),  # another runtime's
        ("latency/measure.py", False),
    ],
)
def test_other_code_is_another_file(
    file: str, counts: bool, exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes
    assert (module._OURS / file).is_file()
    module._code.cache_clear()
    first, _ = exported(SUBJECT, TARGET, tmp_path)
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#" * (self == module._OURS / file))
    module._code.cache_clear()
    second, _ = exported(SUBJECT, TARGET, tmp_path)
    module._code.cache_clear()
    assert (first != second) is counts


def test_checked_on_random_numbers_and_int8_calibrated_on_others(exporter: Exporter, tmp_path: Path) -> None:
    exported(SUBJECT, TARGET, tmp_path)
    exported(SUBJECT, Target(precision="int8"), tmp_path)
    plain, int8 = exporter.asked
    assert plain["images"].shape == (2, 3, 8, 8)
    assert plain["photographs"] is int8["photographs"] is False
    assert plain["calibration"] is None
    assert int8["calibration"].shape == (8, 3, 8, 8)
    assert isinstance(plain["network"], nn.Flatten)


# What fails


@pytest.mark.parametrize("error", [ExportMismatchError("differs"), InputError("no Erf"), KeyboardInterrupt()])
def test_a_failed_export_leaves_nothing(error: BaseException, exporter: Exporter, tmp_path: Path) -> None:
    exporter.error = error
    with pytest.raises(type(error)):
        exported(SUBJECT, TARGET, tmp_path)
    assert list((tmp_path / "exports").iterdir()) == []
    exporter.error = None
    assert exported(SUBJECT, TARGET, tmp_path)[1] == PROOF


KILLED = """
import os, signal, sys
from pathlib import Path
from torch import nn
from efficientformer.latency import exports
from efficientformer.latency.subjects import Subject
from efficientformer.latency.target import Target
def export(network, path, *_, **__):
    path.write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)
exports.export = export
exports.exported(Subject("a/small", (3, 8, 8), 1, 1, "identity", nn.Flatten, {}), Target(), Path(sys.argv[1]))
"""


def test_a_killed_export_leaves_no_half_file_where_it_is_looked_for(
    exporter: Exporter, tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    left = list((tmp_path / "exports").iterdir())
    assert all(one.name.startswith(".new-") for one in left)
    path, _ = exported(SUBJECT, TARGET, tmp_path)
    assert len(exporter.asked) == 1
    assert path.parent not in left


def test_of_two_processes_that_export_the_first_ones_file_stays(
    exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def slow(network: nn.Module, path: Path, *rest: Any, **options: Any) -> Artefact:
        if not taken:
            taken.append(path)
            taken.append(exported(SUBJECT, TARGET, tmp_path)[0])  # another is faster
            taken[1].write_bytes(b"the other's")
        return exporter(network, path, *rest, **options)

    monkeypatch.setattr(module, "export", slow)
    path, _ = exported(SUBJECT, TARGET, tmp_path)
    assert path.read_bytes() == b"the other's"
    assert [one.name for one in (tmp_path / "exports").iterdir()] == [path.parent.name]


# What needs none, and where they are kept


def test_a_file_stands_for_itself(exporter: Exporter, tmp_path: Path) -> None:
    file = Subject("a.onnx", (3, 8, 8), None, None, "", None, {"onnxruntime": tmp_path / "a.onnx"})
    assert exported(file, TARGET, tmp_path / "cache") == (tmp_path / "a.onnx", None)
    with pytest.raises(InputError, match="is a file of another runtime"):
        exported(file, Target("openvino"), tmp_path / "cache")
    assert exporter.asked == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EFFICIENTFORMER_CACHE": "/a/b"}, "/a/b"),
        ({"EFFICIENTFORMER_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/efficientformer"),
        ({"HOME": "/home/me"}, "/home/me/.cache/efficientformer"),
    ],
)
def test_the_users_cache_folder(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EFFICIENTFORMER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_tests_never_write_into_the_users_cache(export_cache: Path) -> None:
    assert cache_folder() == export_cache


Build = Callable[[], nn.Module]


def small(seed: int) -> Build:
    def build() -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()

    return build


def test_for_real(tmp_path: Path) -> None:
    subject = dataclasses.replace(SUBJECT, build=small(0))
    path, proof = exported(subject, TARGET, tmp_path)
    assert proof is not None
    assert proof.size_bytes == path.stat().st_size
    assert proof.max_difference <= 1e-4
    assert (proof.images, proof.photographs) == (2, False)
    written = path.stat().st_mtime_ns
    assert exported(dataclasses.replace(subject, build=small(1)), TARGET, tmp_path) == (path, proof)
    assert path.stat().st_mtime_ns == written  # the identity decides, not the object
