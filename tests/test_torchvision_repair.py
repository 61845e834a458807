from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from efficientformer import torchvision_repair


def fresh_process(script: str, *paths: Path) -> Any:
    """What a script prints as JSON on its last line, in a new interpreter that finds `paths` first."""
    known = [str(path) for path in paths] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, known))}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_timm_works_after_our_import() -> None:
    script = """
import json
import efficientformer, timm
model = timm.create_model("test_vit")
print(json.dumps(sum(parameter.numel() for parameter in model.parameters())))
"""
    assert fresh_process(script) > 0


def test_a_broken_wheel_is_importable_and_its_operators_stay_an_error(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("import torch\nfound = torch.ops.torchvision.nms\n")
    (package / "_C.so").write_bytes(b"not a library")
    script = """
import json, torch
def outcome(act):
    try:
        act()
    except Exception as error:
        return type(error).__name__
    return "fine"
def imported():
    import torchvision
def called():
    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
before = outcome(imported)
import efficientformer
print(json.dumps([before, outcome(imported), outcome(called)]))
"""
    assert fresh_process(script, tmp_path) == ["AttributeError", "fine", "NotImplementedError"]


def test_nothing_is_registered_where_the_operators_are_there() -> None:
    script = """
import json, torch
theirs = torch.library.Library("torchvision", "DEF")
theirs.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import efficientformer
from efficientformer import torchvision_repair
repaired = torchvision_repair.repair()
registered = hasattr(torch.ops.torchvision, "qnms")
print(json.dumps([len(torchvision_repair._libraries), registered, repaired]))
"""
    assert fresh_process(script) == [0, False, False]


def test_our_import_alone_brings_no_torch() -> None:
    script = """
import json, sys
import efficientformer
first = efficientformer.torchvision_repair.RepairFirst
waits = [isinstance(one, first) for one in sys.meta_path].count(True)
heavy = [name for name in ("torch", "torchvision", "timm", "numpy") if name in sys.modules]
print(json.dumps([heavy, waits, "efficientformer_l1" in efficientformer.PRESETS]))
"""
    assert fresh_process(script) == [[], 1, True]


def test_the_repair_is_done_once_and_just_before_torchvision(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nassert sys.modules['repaired'] == 1\n")
    script = """
import json, sys
import efficientformer
from efficientformer import torchvision_repair
sys.modules["repaired"] = 0
def repair():
    sys.modules["repaired"] += 1
torchvision_repair.repair = repair
import json.tool, wave
before = sys.modules["repaired"]
import torchvision
after, left = sys.modules["repaired"], [type(one).__name__ for one in sys.meta_path]
torchvision_repair.install()  # torchvision is there: nothing more to do
again = [type(one).__name__ for one in sys.meta_path]
print(json.dumps([before, after, "RepairFirst" in left, again == left]))
"""
    assert fresh_process(script, tmp_path) == [0, 1, False, True]


class FakeTorch:
    """As much of torch as the repair touches; files that begin with `good` are its loadable libraries."""

    def __init__(self) -> None:
        self.defined: list[str] = []
        self.ops = SimpleNamespace(torchvision=SimpleNamespace(), load_library=self.load)
        self.library = SimpleNamespace(Library=lambda *_: SimpleNamespace(define=self.defined.append))

    def load(self, path: Path) -> None:
        if not path.read_bytes().startswith(b"good"):
            raise OSError(f"{path}: invalid ELF header")
        self.ops.torchvision.nms = "the real operator"


@pytest.mark.parametrize(
    ("libraries", "installed", "repaired"),
    [
        ({}, False, False),
        ({"_C.so": b"good"}, True, False),
        ({"_C.pyd": b"good"}, True, False),
        ({"_C.so": b"built for another torch"}, True, True),
        ({}, True, True),  # a wheel without compiled operators
    ],
)
def test_the_schemas_are_registered_only_for_a_wheel_that_cannot_load(
    libraries: dict[str, bytes],
    installed: bool,
    repaired: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, content in libraries.items():
        (tmp_path / name).write_bytes(content)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py")) if installed else None
    fake = FakeTorch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(torchvision_repair, "_libraries", [])
    assert torchvision_repair.repair() is repaired
    assert [schema.partition("(")[0] for schema in fake.defined] == (["nms", "qnms"] if repaired else [])


def test_repairing_again_does_nothing() -> None:
    import timm  # noqa: F401 - by way of torchvision

    assert hasattr(torch.ops.torchvision, "nms")
    assert torchvision_repair.repair() is False
