"""PyTorch compiled ahead of time. One network is compiled for all tests: that takes a C++ compiler's time."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efficientformer import fold
from efficientformer.errors import InputError
from efficientformer.runtimes.base import (
    MissingRuntimeError,
    Settings,
    Traced,
    UnsupportedOperatorError,
    random_image,
)
from efficientformer.runtimes.pytorch.compiled import Compiled, compiler_trouble
from efficientformer.runtimes.pytorch.origins import origins_of
from efficientformer.runtimes.pytorch.programs import program
from tests.strategies import randomised, tiny

RUNTIME = Compiled()
SHAPE = (1, 3, 32, 64)
compiles = pytest.mark.skipif(compiler_trouble() is not None, reason=str(compiler_trouble()))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What loading changes in a process, put back."""
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class Everything(nn.Module):
    """What the table of the eager runtime has, one after the other, and a network beside it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.convolution = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.activations = nn.Sequential(nn.GELU(), nn.ReLU(), nn.Hardswish())
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.norm = nn.LayerNorm(16)
        self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.pool(self.activations(self.depthwise(self.convolution(x)))).flatten(2).transpose(1, 2)
        mixed = (rows @ rows.transpose(1, 2)).softmax(-1) @ self.norm(rows)
        return self.linear(mixed.mean(1)) + self.network(x)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Everything(fold(randomised(tiny(input_size=(32, 64))))).eval()


@pytest.fixture(scope="module")
def exported(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "deep" / "model.aoti.pt2"
    RUNTIME.export(Traced(module, SHAPE), path)
    assert list(path.parent.iterdir()) == [path]
    return path


@compiles
@pytest.mark.slow
def test_a_network_gives_what_it_gave(module: nn.Module, exported: Path) -> None:
    array = random_image(SHAPE)
    with torch.no_grad():
        expected = module(torch.from_numpy(array)).numpy()
    for threads in (2, 1):
        session = RUNTIME.load(exported, Settings(threads=threads))
        assert (session.shape, session.takes_float32, torch.get_num_threads()) == (SHAPE, True, threads)
        output = session.run(array)
        assert output.dtype == np.float32
        assert np.abs(output - expected).max() / np.abs(expected).max() < 1e-5


@compiles
@pytest.mark.slow
def test_operators(exported: Path) -> None:
    trace = RUNTIME.operators(exported, Settings(), random_image(SHAPE), 3)
    assert len(trace.whole_ms) == 3 and "torch.profiler" in trace.profiler
    assert 0 < sum(one.ms for one in trace.operators) <= max(trace.whole_ms)
    convolutions = [one for one in trace.operators if "convolution" in one.kind]
    assert all(one.source and one.role == "compute" for one in convolutions)
    assert len({one.source for one in convolutions}) == len(convolutions)
    first = next(one for one in convolutions if one.source == "network.1.mlp.path.0")
    assert first.detail == "conv2d + gelu of network.1.mlp.path.0, network.1.mlp.path.1"


@compiles
@pytest.mark.slow
def test_what_it_was_not_compiled_for_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compiled for the precision fp32, not bf16"):
        RUNTIME.load(exported, Settings(precision="bf16"))
    for key, value in (("AOTI_MACHINE", "m68k"), ("AOTI_PLATFORM", "amiga"), ("AOTI_DEVICE_KEY", "cuda")):
        path = tmp_path / f"{key}.aoti.pt2"
        with zipfile.ZipFile(exported) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name.endswith("wrapper_metadata.json"):
                    content = json.dumps(json.loads(content) | {key: value}).encode()
                target.writestr(name, content)
        with pytest.raises(InputError, match=f"compiled for the .* {value}, not"):
            RUNTIME.load(path, Settings())


@compiles
@pytest.mark.slow
def test_a_damaged_file_is_refused(exported: Path, tmp_path: Path) -> None:
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 255
    for number, damaged in enumerate((content, content[: len(content) // 2])):
        path = tmp_path / f"{number}.aoti.pt2"
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            RUNTIME.load(path, Settings())


@compiles
@pytest.mark.slow
def test_a_file_holds_no_sources(exported: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".cpp", ".pt", ".pkl"))]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(200)])
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.aoti.pt2"
    with pytest.raises(InputError, match="no such file"):
        RUNTIME.load(path, Settings())
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged") as caught:
        RUNTIME.load(path, Settings())
    assert str(caught.value).startswith(str(path))


def test_an_archive_without_a_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.aoti.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/models/model.json", "{}")
    with pytest.raises(InputError, match="holds no compiled library"):
        RUNTIME.load(path, Settings())


def test_to_run_is_no_trouble_but_export_wants_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert RUNTIME.trouble() is None
    assert "not on mps" in str(RUNTIME.trouble("mps"))
    with pytest.raises(MissingRuntimeError, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        RUNTIME.export(Traced(nn.ReLU(), SHAPE), tmp_path / "model.aoti.pt2")


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@compiles
def test_control_flow_that_depends_on_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"torch\.export cannot follow"):
        RUNTIME.export(Traced(Undecided(), SHAPE), tmp_path / "model.aoti.pt2")


def test_origins_mend_what_inductor_leaves_out() -> None:
    """A convolution named by its activation, its change of layout, and one claimed by a later addition."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    graph = program(Traced(network, SHAPE), "fp32", torch.contiguous_format, "cpu").graph
    kernels = {
        "cpp_fused_relu_0:1": {"post_grad_nodes": ["fn"], "pre_grad_nodes": ["relu"]},
        "x_convolution:2": {"post_grad_nodes": ["fn"], "pre_grad_nodes": ["relu"]},
        "x_convolution:3": {"post_grad_nodes": ["fn_1"], "pre_grad_nodes": ["conv2d_2"]},
        "x_convolution:4": {"post_grad_nodes": ["fn_2"], "pre_grad_nodes": ["conv2d_2"]},
    }
    rows = [(row["sources"], row["operators"], row["layout"]) for row in origins_of(graph, kernels)]
    assert rows == [
        (["0"], ["conv2d"], True),
        (["0", "1"], ["conv2d", "relu"], False),
        (["2"], ["conv2d"], False),
        (["3"], ["conv2d"], False),
    ]
