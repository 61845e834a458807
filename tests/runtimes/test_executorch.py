"""ExecuTorch with XNNPACK, against the real runtime."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer import fold
from efficientformer.errors import InputError
from efficientformer.latency.untrained import untrained
from efficientformer.runtimes.base import (
    NoProfilerError,
    Settings,
    Traced,
    UnsupportedOperatorError,
    random_image,
)
from efficientformer.runtimes.executorch.program import partition
from efficientformer.runtimes.executorch.runtime import ExecuTorch, ExecuTorchSession
from tests.strategies import tiny

RUNTIME = ExecuTorch()
SETTINGS = Settings()


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


MASK = torch.linspace(-1, 1, 24 * 24).reshape(24, 24)


def attention(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of the pixels of a map that holds queries, keys and values, by PyTorch's own operator."""
    q, k, v = x.flatten(2).unflatten(1, (3, 2, -1)).transpose(-1, -2).unbind(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


MAPS = {
    "conv": nn.Conv2d(24, 5, 3, 2, 1),
    "depthwise": nn.Conv2d(24, 24, 3, 1, 1, groups=24),
    "gelu": nn.GELU(),
    "relu": nn.ReLU(),
    "hardswish": nn.Hardswish(),
    "pool": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "mean": Call(lambda x: x.mean((2, 3))),
    "products": Call(lambda x: (x @ x.transpose(-1, -2)).softmax(-1) @ x),
    "parts of given sizes": Call(lambda x: torch.cat(x.split((5, 19), 1)[::-1], 1)),
    "parts of one size": Call(lambda x: torch.cat(x.split(10, 1)[::-1], 1)),
    "addcmul": Call(lambda x: torch.addcmul(x, x, x)),
    "attention": Call(attention),
    "masked attention": Call(lambda x: attention(x, MASK)),
}
TOKENS = {
    "linear": nn.Linear(6, 3),
    "mean": Call(lambda x: x.mean(1)),
    "class token": Call(lambda x: torch.cat([x[:, :1].expand(1, -1, -1), x], 1)[:, 0]),
}
TABLES = [(MAPS, (1, 24, 4, 6)), (TOKENS, (1, 5, 6))]


class Branches(nn.Module):
    """Several modules on one input, their outputs in a row: one conversion for all."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x).flatten() for branch in self.branches])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folded network with every kind of block."""
    path = tmp_path_factory.mktemp("executorch") / "tiny.pte"
    RUNTIME.export(Traced(fold(untrained(tiny())), (1, 3, 32, 32)), path)
    return path


def differs(session: ExecuTorchSession, module: nn.Module, array: np.ndarray) -> float:
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(array)).numpy()
    given = session.run(array)
    assert given.shape == wanted.shape and given.dtype == np.float32
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("table", "shape"), TABLES)
def test_it_computes_what_pytorch_does_and_in_xnnpack(
    table: dict[str, nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    RUNTIME.export(Traced(Branches(table.values()), shape), tmp_path / "m.pte")
    session = RUNTIME.load(tmp_path / "m.pte", SETTINGS)
    assert session.shape == shape and session.takes_float32
    row, array = session.run(random_image(shape)), torch.from_numpy(random_image(shape))
    for name, module in table.items():
        wanted = module(array).detach().flatten().numpy()
        given, row = np.split(row, [len(wanted)])
        assert np.abs(given - wanted).max() / np.abs(wanted).max() < 1e-5, name
    assert not len(row)
    assert not partition(tmp_path / "m.pte").fallback


def test_a_folded_network(exported: Path) -> None:
    session = RUNTIME.load(exported, SETTINGS)
    assert differs(session, fold(untrained(tiny())), random_image((1, 3, 32, 32))) < 1e-5
    assert RUNTIME.files(exported) == (exported,)


def test_an_array_that_is_read_only_is_taken(exported: Path) -> None:
    array = random_image((1, 3, 32, 32))
    wanted = RUNTIME.load(exported, SETTINGS).run(array)
    array.flags.writeable = False
    np.testing.assert_array_equal(RUNTIME.load(exported, SETTINGS).run(array), wanted)


def test_only_normalisation_is_left_outside_xnnpack(exported: Path) -> None:
    found = partition(exported)
    assert set(found.fallback) == {"aten::native_layer_norm.out"}
    assert found.parts == found.fallback["aten::native_layer_norm.out"] + 1
    assert found.delegated["AvgPooling2d"] == 4 and found.delegated["Softmax"] == 2
    text = str(found)
    assert text.startswith(f"{sum(found.delegated.values())} operators in XNNPACK") and "layer_norm" in text


def test_there_is_no_profiler_and_it_says_so(exported: Path) -> None:
    with pytest.raises(NoProfilerError, match=r"tiny\.pte: .*event tracer.*native_layer_norm"):
        RUNTIME.operators(exported, SETTINGS, random_image((1, 3, 32, 32)), 3)


@pytest.mark.parametrize("fake", [b"", b"PK\3\4 something else altogether", b"\0\0\0\0ET12eh00"])
def test_what_is_no_program_is_refused_in_one_line(fake: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(fake)
    for read in (lambda: RUNTIME.load(path, SETTINGS), lambda: partition(path)):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: "):
            read()


def test_a_file_cut_short_or_missing_is_refused(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    for read in (lambda: RUNTIME.load(path, SETTINGS), lambda: partition(path)):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: cannot be read"):
            read()
    path.write_bytes(exported.read_bytes()[:-100])
    for read in (lambda: RUNTIME.load(path, SETTINGS), lambda: partition(path)):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: "):
            read()


def test_an_operator_without_counterpart_is_named(tmp_path: Path) -> None:
    cases = {
        "aten.erfinv.default": Call(torch.erfinv),
        "aten._fft_c2c.default": Call(lambda x: torch.fft.fft2(x).real),
    }
    for operator, module in cases.items():
        with pytest.raises(UnsupportedOperatorError, match=re.escape(operator)):
            RUNTIME.export(Traced(module, (1, 2, 4, 4)), tmp_path / "m.pte")
    assert not list(tmp_path.iterdir())


def test_exporting_is_quiet_and_leaves_logging_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = list(logging.root.handlers), logging.root.manager.disable
    RUNTIME.export(Traced(nn.GELU(), (1, 2)), tmp_path / "deep" / "m.pte")
    RUNTIME.load(tmp_path / "deep" / "m.pte", SETTINGS)
    assert capfd.readouterr() == ("", "")
    assert (list(logging.root.handlers), logging.root.manager.disable) == before


def test_several_at_once(tmp_path: Path) -> None:
    modules = [nn.Conv2d(3, 4, 1), nn.GELU()]
    paths = RUNTIME.export_many([Traced(module, (1, 3, 4, 4)) for module in modules], tmp_path)
    for path, module in zip(paths, modules, strict=True):
        assert differs(RUNTIME.load(path, SETTINGS), module, random_image((1, 3, 4, 4))) < 1e-5


def test_int8_is_in_the_file_and_near(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 256, 3, 2, 1))
    images = np.random.default_rng(1).standard_normal((8, 3, 16, 16), dtype=np.float32)
    traced = Traced(module, (1, 3, 16, 16))
    RUNTIME.export(traced, tmp_path / "int8.pte", "int8", images)
    weights = sum(parameter.numel() for parameter in module.parameters())
    assert weights < (tmp_path / "int8.pte").stat().st_size < 2 * weights
    assert partition(tmp_path / "int8.pte").delegated["Conv2d"] == 2
    session = RUNTIME.load(tmp_path / "int8.pte", Settings(precision="int8"))
    assert session.takes_float32
    assert 1e-5 < differs(session, module, images[:1]) < 0.05


@pytest.mark.parametrize(
    "images", [None, np.zeros((0, 3, 8, 8), np.float32), np.zeros((2, 3, 4, 4), np.float32)]
)
def test_int8_needs_images_of_the_right_size(images: np.ndarray | None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images"):
        RUNTIME.export(Traced(nn.Conv2d(3, 4, 1), (1, 3, 8, 8)), tmp_path / "m.pte", "int8", images)


THREADS = """
import os, sys
import numpy as np
from pathlib import Path
from efficientformer.errors import InputError
from efficientformer.runtimes.base import Settings
from efficientformer.runtimes.executorch import ExecuTorch
runtime, path = ExecuTorch(), Path(sys.argv[1])
for threads in (3, 1, 2):
    session = runtime.load(path, Settings(threads=threads))
    session.run(np.zeros(session.shape, np.float32))
    print(len(os.listdir("/proc/self/task")), end=" ")
    try:
        runtime.load(path, Settings(threads=threads + 1))
    except InputError as error:
        assert "one pool in a process" in str(error), error
    else:
        raise AssertionError
    del session
print("executorch.exir" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_are_as_many_as_asked_for(exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", THREADS, str(exported)],
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.stdout.split() == ["3", "1", "2", "False"], done.stderr
    assert done.stderr == ""


def test_only_the_cpu_is_a_device() -> None:
    assert RUNTIME.trouble() is None
    assert "CPU" in (RUNTIME.trouble("cuda") or "")
