from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efficientformer import InputError, fold
from efficientformer.runtimes.base import Settings, Traced, UnsupportedOperatorError, random_image
from efficientformer.runtimes.ncnn import convert as ncnn_convert
from efficientformer.runtimes.ncnn import files as ncnn_files
from efficientformer.runtimes.ncnn.runtime import Ncnn, NcnnSession
from tests.strategies import randomised, tiny

RUNTIME = Ncnn()
BOUND = 1e-4

pytestmark = pytest.mark.skipif(RUNTIME.trouble() is not None, reason=str(RUNTIME.trouble()))


class Attention(nn.Module):
    """As in timm: one tensor of five dimensions for queries, keys and values."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.fused = nn.Linear(12, 36), nn.Linear(12, 12), fused

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, 2, 6).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-2, -1) * 6**-0.5).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, count, width))


class AddCMul(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, x.relu(), x.sigmoid())


class Subsample(nn.Module):
    """As in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)[:, ::2, ::2]
        return self.linear(x.reshape(1, -1, 6))


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cummax(x, 1).values


def relative(given: np.ndarray, wanted: np.ndarray) -> float:
    assert given.shape == wanted.shape and given.dtype == np.float32
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def outputs(module: nn.Module, array: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(array)).numpy()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return fold(randomised(tiny(input_size=(64, 32))))


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "new" / "v1.2.param"
    RUNTIME.export(Traced(network, (1, 3, 64, 32)), path)
    return path


def mapped() -> nn.Module:
    first = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish())
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return nn.Sequential(*first, pool, AddCMul(), nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5), nn.GELU())


def tokens() -> nn.Module:
    first = (nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU())
    return nn.Sequential(*first, Attention(fused=False), Attention(fused=True))


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "map": (mapped(), (1, 3, 9, 14)),
    "tokens": (tokens(), (1, 10, 12)),
    "subsample": (Subsample(), (1, 6, 5, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_file_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    module, shape = MODULES[name]
    path = tmp_path / "a.param"
    RUNTIME.export(Traced(module.train(), shape), path)
    session = RUNTIME.load(path, Settings())
    x = random_image(shape)
    assert session.shape == shape and session.takes_float32
    assert relative(session.run(x), outputs(module, x)) < BOUND


def test_a_folded_network_on_one_and_two_threads(network: nn.Module, exported: Path) -> None:
    x = random_image((1, 3, 64, 32))
    wanted = outputs(network, x)
    for threads in (1, 2):
        assert relative(RUNTIME.load(exported, Settings(threads=threads)).run(x), wanted) < 1e-5


def test_bfloat16_is_another_number_and_float32_is_float32(network: nn.Module, exported: Path) -> None:
    x = random_image((1, 3, 64, 32))
    short = relative(RUNTIME.load(exported, Settings(precision="bf16")).run(x), outputs(network, x))
    assert 1e-4 < short < 0.1
    session = NcnnSession(exported, Settings())
    on = [name for name in dir(session._net.opt) if "16" in name and getattr(session._net.opt, name)]
    assert on == []
    for precision in ("fp16", "int8"):
        with pytest.raises(InputError, match=f"no precision '{precision}'"):
            RUNTIME.load(exported, Settings(precision=precision))


def test_the_weights_are_beside_the_graph_and_nothing_else_is(network: nn.Module, exported: Path) -> None:
    assert sorted(one.name for one in exported.parent.iterdir()) == ["v1.2.bin", "v1.2.param"]
    assert RUNTIME.files(exported) == (exported, exported.with_suffix(".bin"))
    convolutions = sum(
        p.numel() for m in network.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()
    )
    assert exported.with_suffix(".bin").stat().st_size >= 4 * convolutions


def test_exporting_leaves_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    traced = [Traced(nn.Linear(8, 5), (1, 8)), Traced(nn.GELU(), (1, 2, 3, 4))]
    sessions = [RUNTIME.load(path, Settings()) for path in RUNTIME.export_many(traced, tmp_path / "many")]
    for item, session in zip(traced, sessions, strict=True):
        x = random_image(item.shape)
        assert session.shape == item.shape
        assert relative(session.run(x), outputs(item.module, x)) < BOUND
    assert list(here.iterdir()) == []
    assert sorted(one.name for one in (tmp_path / "many").iterdir()) == [
        "0.bin",
        "0.param",
        "1.bin",
        "1.param",
    ]
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"ncnn has no counterpart for .*cummax") as caught:
        RUNTIME.export(Traced(Cumulative(), (1, 3, 4, 4)), tmp_path / "a.param")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_crashes_ncnn_is_refused_with_its_layer(exported: Path, tmp_path: Path) -> None:
    graph = tmp_path / "a.param"
    lines = ncnn_files.read(exported)
    at = next(i for i, line in enumerate(lines) if line.kind == "Slice") - 1
    lines[at].parameters["0"] = "2000000"  # ncnn takes a reshape's sizes on trust
    ncnn_files.write(graph, lines)
    graph.with_suffix(".bin").write_bytes(exported.with_suffix(".bin").read_bytes())
    with pytest.raises(UnsupportedOperatorError, match=r"ncnn (crashes in|cannot run) (Reshape|Slice) \("):
        ncnn_convert.refuse_failing(graph, "fp32", [])


def test_a_graph_whose_outputs_are_no_numbers_is_refused(exported: Path, tmp_path: Path) -> None:
    graph = tmp_path / "a.param"
    graph.write_bytes(exported.read_bytes())
    weights = np.frombuffer(exported.with_suffix(".bin").read_bytes(), np.float32).copy()
    weights[-20:] = np.nan
    graph.with_suffix(".bin").write_bytes(weights.tobytes())
    with pytest.raises(UnsupportedOperatorError, match="outputs are not numbers"):
        ncnn_convert.refuse_failing(graph, "fp32", [])


def test_files_that_are_none_are_told(exported: Path, tmp_path: Path) -> None:
    graph, weights = exported.read_text(), exported.with_suffix(".bin").read_bytes()
    cases: dict[str, tuple[str | bytes, bytes | None]] = {
        "no such file": (graph, None),
        "not a whole ncnn graph": (graph[: len(graph) // 2], weights),
        "does not know": (graph.replace("GELU", "Novelty"), weights),
        "damaged": (graph, weights[: len(weights) // 2]),
    }
    for message, (text, numbers) in cases.items():
        path = tmp_path / "a.param"
        path.write_text(str(text))
        path.with_suffix(".bin").unlink(missing_ok=True)
        if numbers is not None:
            path.with_suffix(".bin").write_bytes(numbers)
        with pytest.raises(InputError, match=message) as caught:
            RUNTIME.load(path, Settings())
        assert str(caught.value).startswith(str(tmp_path))
    for foreign in (b"", b"\x80\x04", b"7767517\n", b"PK\x03\x04" * 50):
        path.write_bytes(foreign)
        path.with_suffix(".bin").write_bytes(weights)
        with pytest.raises(InputError, match="not a whole ncnn graph"):
            RUNTIME.load(path, Settings())
    with pytest.raises(InputError, match="no such file"):
        RUNTIME.load(tmp_path / "none.param", Settings())


def test_an_input_of_another_size_is_told_not_computed(exported: Path) -> None:
    with pytest.raises(InputError, match="takes"):
        RUNTIME.load(exported, Settings()).run(random_image((1, 3, 32, 32)))


def test_operators_have_times_modules_and_the_order_of_execution(exported: Path) -> None:
    trace = RUNTIME.operators(exported, Settings(), random_image((1, 3, 64, 32)), runs=5)
    assert "successive extraction" in trace.profiler
    assert len(trace.whole_ms) == 5
    assert sum(one.ms for one in trace.operators) <= max(trace.whole_ms)
    kinds = {one.kind for one in trace.operators}
    assert {"Convolution", "Pooling", "GELU", "Softmax", "MatMul", "InnerProduct"} <= kinds
    assert not kinds & {"Input", "Split", "MemoryData"}
    first, *_, last = trace.operators
    assert (first.kind, first.source) == ("Convolution", "0.0")
    assert last.kind == "InnerProduct" and last.source.endswith("linear")
    softmax = next(one for one in trace.operators if one.kind == "Softmax")
    assert softmax.source.endswith("path.2")


def test_loading_and_running_need_no_torch(exported: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from efficientformer.runtimes.ncnn import Ncnn;"
        "from efficientformer.runtimes.base import Settings, random_image;"
        "Ncnn().load(Path(sys.argv[1]), Settings()).run(random_image((1, 3, 64, 32)));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run((sys.executable, "-c", code, str(exported)), check=True, timeout=60)


def test_threads_are_as_many_as_asked_for_and_sleep_afterwards(exported: Path) -> None:
    x = random_image((1, 3, 64, 32))
    session = RUNTIME.load(exported, Settings(threads=2))
    assert session._net.opt.num_threads == 2
    session.run(x)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    assert threading.active_count() < 10


def test_other_devices_are_told() -> None:
    assert "not on cuda" in str(RUNTIME.trouble("cuda"))
