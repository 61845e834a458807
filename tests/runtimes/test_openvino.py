from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import efficientformer as ef
from efficientformer import InputError
from efficientformer.latency.untrained import untrained
from efficientformer.runtimes.base import (
    MissingRuntimeError,
    Settings,
    Traced,
    UnsupportedOperatorError,
    random_image,
)
from efficientformer.runtimes.openvino import model as openvino_model
from efficientformer.runtimes.openvino.runtime import OpenVino, _compiled
from tests.strategies import tiny

RUNTIME = OpenVino()
TOLERANCE = 1e-5  # bfloat16, which OpenVINO takes unasked where it can, is off by 1e-3

pytestmark = pytest.mark.skipif(RUNTIME.trouble() is not None, reason=str(RUNTIME.trouble()))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return (query @ key.transpose(1, 2) / 8**0.5).softmax(-1) @ value


class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(x)


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(3, 8, 3, 2, 1), (1, 3, 16, 16)),
    "not square": (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 8, 20)),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 9, 9)),
    "gelu": (nn.GELU(), (1, 8, 5, 5)),
    "relu": (nn.ReLU(), (1, 8)),
    "hardswish": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish()), (1, 3, 5, 5)),
    "pooling": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 4, 7, 7)),
    "norm": (nn.LayerNorm(8), (1, 6, 8)),
    "attention": (Attention(), (1, 6, 8)),
    "linear": (nn.Linear(6, 3), (1, 6)),
}


def outputs(module: nn.Module, array: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(array)).numpy()


def difference(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("many") / "new"
    files = RUNTIME.export_many([Traced(*case) for case in CASES.values()], folder)
    assert sorted(folder.iterdir()) == sorted(one for path in files for one in RUNTIME.files(path))
    return dict(zip(CASES, files, strict=True))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return ef.fold(untrained(tiny()))


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "new" / "model.xml"
    RUNTIME.export(Traced(network, (1, 3, 32, 32)), path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_pytorch_does(name: str, together: dict[str, Path]) -> None:
    module, shape = CASES[name]
    x = random_image(shape)
    session = RUNTIME.load(together[name], Settings())
    assert (session.shape, session.takes_float32) == (shape, True)
    given = session.run(x)
    assert given.dtype == np.float32
    assert difference(given, outputs(module, x)) < TOLERANCE


def test_a_network_computes_what_pytorch_does(network: nn.Module, exported: Path) -> None:
    assert set(exported.parent.iterdir()) == set(RUNTIME.files(exported))  # the weights are inside
    assert exported.with_suffix(".bin").stat().st_size >= 4 * sum(p.numel() for p in network.parameters())
    session = RUNTIME.load(exported, Settings())
    first, second = random_image((1, 3, 32, 32)), -random_image((1, 3, 32, 32))
    given = session.run(first)
    session.run(second)  # must not write over what was given before
    assert difference(given, outputs(network, first)) < TOLERANCE


def test_the_profile_names_modules_and_what_is_fused(network: nn.Module, exported: Path) -> None:
    trace = RUNTIME.operators(exported, Settings(), random_image((1, 3, 32, 32)), runs=9)
    modules = {name for name, _ in network.named_modules()}
    assert len(trace.whole_ms) == 9
    assert {one.source for one in trace.operators} <= modules - {""}
    assert {one.role for one in trace.operators} == {"compute", "convert"}
    assert all(one.role == "convert" for one in trace.operators if one.kind == "Reorder")
    stem = next(one for one in trace.operators if one.source == "0.0" and one.kind == "Convolution")
    assert "Relu" in stem.detail
    assert 0 < stem.ms < max(trace.whole_ms)


def test_bfloat16_is_taken_or_refused(network: nn.Module, exported: Path) -> None:
    x = random_image((1, 3, 32, 32))
    try:
        given = RUNTIME.load(exported, Settings(precision="bf16")).run(x)
    except InputError as error:
        assert "has no native bf16" in str(error)
    else:
        assert 1e-5 < difference(given, outputs(network, x)) < 0.05


def test_half_precision_is_taken_or_refused(tmp_path: Path) -> None:
    module, path = nn.Conv2d(3, 64, 3), tmp_path / "half.xml"
    x = random_image((1, 3, 8, 8))
    RUNTIME.export(Traced(module, x.shape), path, "fp16")
    assert path.with_suffix(".bin").stat().st_size < 0.7 * 4 * sum(p.numel() for p in module.parameters())
    with pytest.raises(InputError, match="holds fp16, the target says fp32"):
        RUNTIME.load(path, Settings())
    try:
        given = RUNTIME.load(path, Settings(precision="fp16")).run(x)
    except InputError as error:
        assert "has no native fp16" in str(error)
    else:
        assert difference(given, outputs(module, x)) < 0.01


def test_int8_is_near_and_silent(
    network: nn.Module, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "int8.xml"
    traced, images = Traced(network, (1, 3, 32, 32)), random_image((8, 3, 32, 32))
    RUNTIME.export(traced, path, "int8", images)
    assert capfd.readouterr() == ("", "")
    sizes = [one.with_suffix(".bin").stat().st_size for one in (path, exported)]
    assert sizes[0] < 0.5 * sizes[1]
    session = RUNTIME.load(path, Settings(precision="int8"))
    wanted = np.concatenate([outputs(network, image[None]) for image in images])
    given = np.concatenate([session.run(image[None]) for image in images])
    assert 0 < difference(given, wanted) < 0.1
    trace = RUNTIME.operators(path, Settings(precision="int8"), images[:1], runs=4)
    assert any("I8" in one.detail for one in trace.operators)
    assert {one.source for one in trace.operators} <= {name for name, _ in network.named_modules()} - {""}
    with pytest.raises(InputError, match="holds int8, the target says fp32"):
        RUNTIME.load(path, Settings())


@pytest.mark.parametrize("images", [None, np.zeros((0, 3, 8, 8), np.float32), random_image((2, 3, 9, 9))])
def test_int8_wants_images_that_fit(images: np.ndarray | None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images to calibrate on"):
        RUNTIME.export(Traced(nn.ReLU(), (1, 3, 8, 8)), tmp_path / "int8.xml", "int8", images)
    assert not list(tmp_path.iterdir())


def test_int8_wants_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_model, "installed", lambda package: None)
    with pytest.raises(MissingRuntimeError, match="nncf is not installed"):
        openvino_model.quantised(None, random_image((1, 3, 8, 8)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda xml, weights: (None, weights), "no OpenVINO file of that name"),
        (lambda xml, weights: (xml, None), "bin file"),
        (lambda xml, weights: (xml, weights[:100]), "Incorrect weights"),
        (lambda xml, weights: (xml[:3000], weights), "cannot read it"),
        (lambda xml, weights: (b"", weights), "cannot read it"),
        (lambda xml, weights: (b"<html>not a network</html>", weights), "cannot read it"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(damage, reason: str, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.xml"
    contents = damage(*(one.read_bytes() for one in RUNTIME.files(exported)))
    for file, content in zip(RUNTIME.files(path), contents, strict=True):
        if content is not None:
            file.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        RUNTIME.load(path, Settings())
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07")
    with pytest.raises(InputError, match=r"it ends in \.xml"):
        RUNTIME.load(path, Settings())


def test_an_operator_without_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"OpenVINO cannot convert the network: .*Det"):
        RUNTIME.export(Traced(Determinant(), (1, 3, 4, 4)), tmp_path / "model.xml")
    assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dies(model: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino_model.package("openvino"), "save_model", dies)
    with pytest.raises(KeyboardInterrupt):
        RUNTIME.export(Traced(nn.ReLU(), (1, 3, 8, 8)), tmp_path / "model.xml")
    assert not list(tmp_path.iterdir())


def test_threads_are_what_was_asked_for_and_rest_when_idle(exported: Path) -> None:
    for threads in range(1, (os.cpu_count() or 1) + 1):
        compiled = _compiled(exported, Settings(threads=threads), profile=False)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    with pytest.raises(InputError, match="threads here, not 100000"):
        RUNTIME.load(exported, Settings(threads=100_000))
    session = RUNTIME.load(exported, Settings(threads=min(2, os.cpu_count() or 1)))
    session.run(random_image((1, 3, 32, 32)))
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_a_missing_device_or_package_is_named(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    trouble = RUNTIME.trouble("gpu")
    if trouble is not None:
        assert trouble.startswith("no Intel GPU")
        with pytest.raises(InputError, match="no Intel GPU"):
            RUNTIME.load(exported, Settings(device="gpu"))
    monkeypatch.setattr(OpenVino, "packages", ("no-such-package",))
    assert RUNTIME.trouble() == "no-such-package is not installed; pip install 'efficientformer[openvino]'"


def test_running_a_file_needs_no_torch_and_reports_to_nobody(exported: Path) -> None:
    script = f"""
import sys
from pathlib import Path
import numpy as np
from efficientformer.runtimes.base import Settings
from efficientformer.runtimes.openvino.runtime import OpenVino
session = OpenVino().load(Path({str(exported)!r}), Settings())
session.run(np.zeros(session.shape, np.float32))
print([name for name in ("torch", "onnx", "nncf", "openvino_telemetry") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_models_freed_in_any_order_leave_signals_alone(exported: Path) -> None:
    script = f"""
import gc, signal, subprocess, sys
from pathlib import Path
import numpy as np
from efficientformer.runtimes.base import Settings
from efficientformer.runtimes.openvino.runtime import OpenVino
came = []
signal.signal(signal.SIGCHLD, lambda *_: came.append(1))  # as torch's data loaders do
first, second = (OpenVino().load(Path({str(exported)!r}), Settings()) for _ in range(2))
for session in (first, second):
    session.run(np.zeros(session.shape, np.float32))
del first, session
gc.collect()
del second
gc.collect()
subprocess.run([sys.executable, "-c", ""])
print(came)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr
