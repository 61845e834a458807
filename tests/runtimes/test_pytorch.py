"""PyTorch eager, against the modules themselves."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efficientformer import fold
from efficientformer.errors import InputError
from efficientformer.runtimes.base import Settings, Traced, UnsupportedOperatorError, random_image
from efficientformer.runtimes.pytorch import archive, programs
from efficientformer.runtimes.pytorch.eager import PyTorch
from tests.strategies import randomised, tiny

RUNTIME = PyTorch()


class Attend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        return (rows.transpose(1, 2) @ rows).softmax(-1)


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(3, 8, 3, 2, 1), (1, 3, 16, 24)),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 9, 7)),
    "activations": (nn.Sequential(nn.GELU(), nn.ReLU(), nn.Hardswish()), (1, 4, 8, 8)),
    "pool": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 4, 8, 12)),
    "norm": (nn.LayerNorm(12), (1, 5, 12)),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (1, 3, 2, 2)),
    "attention": (Attend(), (1, 4, 4, 6)),
    "two outputs": (Several(), (1, 3, 4, 4)),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What loading changes in a process, put back."""
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return fold(randomised(tiny(input_size=(32, 64))))


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "deep" / "model.pt2"
    RUNTIME.export(Traced(network, (1, 3, 32, 64)), path)
    return path


@torch.no_grad()
def expected(module: nn.Module, array: np.ndarray) -> np.ndarray:
    output = module.eval()(torch.tensor(array))
    return (output[0] if isinstance(output, tuple) else output).numpy()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_gives_what_it_gave(name: str, tmp_path: Path) -> None:
    module, shape = MODULES[name]
    RUNTIME.export(Traced(module, shape), tmp_path / "model.pt2")
    session = RUNTIME.load(tmp_path / "model.pt2", Settings())
    array = random_image(shape)
    array.setflags(write=False)
    assert session.shape == shape and session.takes_float32
    assert difference(session.run(array), expected(module, array)) < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_a_network(network: nn.Module, exported: Path) -> None:
    array = random_image((1, 3, 32, 64))
    output = RUNTIME.load(exported, Settings()).run(array)
    assert output.dtype == np.float32
    assert difference(output, expected(network, array)) < 1e-5


def test_bfloat16_computes_in_it_and_takes_and_gives_float32(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    RUNTIME.export(Traced(network, (1, 3, 32, 64)), path, "bf16")
    session = RUNTIME.load(path, Settings(precision="bf16"))
    array = random_image(session.shape)
    output = session.run(array)
    assert output.dtype == np.float32 and session.takes_float32
    assert 1e-5 < difference(output, expected(network, array)) < 0.1
    assert all(weight.dtype == torch.bfloat16 for weight in session.module.parameters())
    with pytest.raises(InputError, match="its weights are bfloat16, not fp32"):
        RUNTIME.load(path, Settings())


def test_maps_and_weights_are_channels_last(exported: Path) -> None:
    module = RUNTIME.load(exported, Settings()).module
    weights = [weight for weight in module.parameters() if weight.ndim == 4 and weight.shape[1] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    first = next(node for node in module.graph.nodes if node.op == "call_function")
    assert first.kwargs == {"memory_format": torch.channels_last}


def test_the_module_is_left_alone(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1)).to(memory_format=torch.channels_last).train()
    RUNTIME.export(Traced(module, (1, 3, 4, 4)), tmp_path / "model.pt2", "bf16")
    assert module.training and module[0].weight.dtype == torch.float32 and module[0].weight.requires_grad


def test_as_many_threads_as_said(exported: Path) -> None:
    for threads in (2, 1):
        RUNTIME.load(exported, Settings(threads=threads))
        assert torch.get_num_threads() == threads
    assert not torch.backends.cudnn.allow_tf32


def test_several_at_once(tmp_path: Path) -> None:
    modules = [Traced(nn.Conv2d(3, width, 1), (1, 3, 4, 4)) for width in (2, 5)]
    paths = RUNTIME.export_many(modules, tmp_path)
    shapes = [RUNTIME.load(path, Settings()).run(random_image((1, 3, 4, 4))).shape for path in paths]
    assert shapes == [(1, 2, 4, 4), (1, 5, 4, 4)]


def test_operators(exported: Path) -> None:
    trace = RUNTIME.operators(exported, Settings(), random_image((1, 3, 32, 64)), 3)
    assert len(trace.whole_ms) == 3 and "clock" in trace.profiler
    assert sum(one.ms for one in trace.operators) <= max(trace.whole_ms)
    first, second = trace.operators[:2]
    assert (first.kind, first.role, first.source) == ("contiguous", "convert", "")
    assert (second.kind, second.role, second.source) == ("conv2d", "compute", "0.0")
    assert {"1.mlp.path.0", "1.mixer.pool"} <= {one.source for one in trace.operators}
    assert [one.role for one in trace.operators].count("convert") == 1


def test_the_profiler_for_gpus_sees_the_same_operators(exported: Path) -> None:
    session = RUNTIME.load(exported, Settings())
    images = session.images(random_image(session.shape))
    times, whole = programs.by_profiler(session.module, images, 2)
    clocked, _ = programs.by_clock(session.module, images, 2)
    assert times.keys() == clocked.keys()
    assert all(len(rows) == 2 and min(rows) > 0 for rows in times.values()) and len(whole) == 2


@pytest.mark.parametrize(
    ("device", "precision", "why"),
    [
        ("cpu", "fp16", "no fp16 on cpu, but bf16"),
        ("cpu", "int8", "has no int8"),
        ("tpu", "fp32", "runs on cpu, cuda, mps, not on tpu"),
        pytest.param(
            "cuda",
            "fp32",
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has one"),
        ),
        pytest.param(
            "mps",
            "fp32",
            "no Metal",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="has it"),
        ),
    ],
)
def test_what_cannot_be_run_is_refused(exported: Path, device: str, precision: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        RUNTIME.load(exported, Settings(device, 1, precision))
    assert str(caught.value).startswith(str(exported))


def test_the_cpu_is_no_trouble() -> None:
    assert RUNTIME.trouble() is None
    assert RUNTIME.files(Path("a.pt2")) == (Path("a.pt2"),)


def test_control_flow_that_depends_on_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"torch\.export cannot follow the network") as caught:
        RUNTIME.export(Traced(Undecided(), (1, 3, 4, 4)), tmp_path / "model.pt2")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(200)])
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with pytest.raises(InputError, match="no such file"):
        RUNTIME.load(path, Settings())
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged") as caught:
        RUNTIME.load(path, Settings())
    assert str(caught.value).startswith(str(path))


def test_a_damaged_file_is_refused(exported: Path, tmp_path: Path) -> None:
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 255
    for number, damaged in enumerate((content, content[: len(content) // 2])):
        path = tmp_path / f"{number}.pt2"
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            RUNTIME.load(path, Settings())


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "sprung")


def tampered(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive with other records."""
    with zipfile.ZipFile(source) as zipped:
        records = {name.partition("/")[2]: zipped.read(name) for name in zipped.namelist()}
    change(records)
    with zipfile.ZipFile(target, "w") as zipped:
        for name, content in records.items():
            zipped.writestr(f"model/{name}", content)
    return target


def edited(name: str, edit: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def change(records: dict[str, bytes]) -> None:
        document = json.loads(records[name])
        edit(document)
        records[name] = json.dumps(document).encode()

    return change


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def nodes(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"]


BAD: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a callable of torch's": (
        edited(GRAPH, lambda d: nodes(d)[0].update(target="torch.os.system")),
        "torch.os.system",
    ),
    "a file as a tensor": (
        edited(GRAPH, lambda d: nodes(d)[0].update(target="torch.ops.aten.from_file.default")),
        "aten",
    ),
    "code in a name": (
        edited(GRAPH, lambda d: nodes(d)[0].update(name="a = exit()")),
        "where a name should be",
    ),
    "an expression": (
        edited(GRAPH, lambda d: d["graph_module"]["graph"]["sym_int_values"].update(a={"as_expr": {}})),
        "free sizes",
    ),
    "two inputs": (
        edited(
            GRAPH,
            lambda d: d["graph_module"]["signature"]["input_specs"].extend([{"user_input": {"arg": {}}}]),
        ),
        "2 inputs",
    ),
    "a pickled weight": (
        edited(WEIGHTS, lambda d: next(iter(d["config"].values())).update(use_pickle=True)),
        "pickle",
    ),
    "a pickled object": (
        edited(CONSTANTS, lambda d: d["config"].update(x={"path_name": "opaque_obj_0", "use_pickle": False})),
        "pickle",
    ),
    "no network": (lambda records: records.pop(GRAPH) and None, "holds no network"),
    "a compiled one": (
        lambda records: (records.pop(GRAPH), records.update({"data/aotinductor/model/a.so": b""}))[1],
        "torch-compiled",
    ),
    "no weights": (lambda records: records.pop(WEIGHTS) and None, "not laid out"),
    "a list for a graph": (lambda records: records.update({GRAPH: b"[]"}), "not laid out"),
}


@pytest.mark.parametrize("name", BAD)
def test_archives_that_could_do_more_than_compute_are_refused(
    name: str, exported: Path, tmp_path: Path
) -> None:
    change, why = BAD[name]
    path = tampered(exported, tmp_path / "bad.pt2", change)
    with pytest.raises(InputError, match=why) as caught:
        RUNTIME.load(path, Settings())
    assert str(caught.value).startswith(str(path))


def test_pickles_and_code_that_a_network_does_not_need_are_left_out(exported: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"

    def arm(records: dict[str, bytes]) -> None:
        records["data/sample_inputs/model.pt"] = pickle.dumps(Trap(sprung))
        records["data/weights/model.pt"] = pickle.dumps(Trap(sprung))
        records["extra/note"] = b"of anything"
        code = f"__import__('pathlib').Path({str(sprung)!r}).write_text('')"
        edited(GRAPH, lambda document: document.update(guards_code=[code]))(records)

    path = tampered(exported, tmp_path / "armed.pt2", arm)
    RUNTIME.load(path, Settings()).run(random_image((1, 3, 32, 64)))
    assert not sprung.exists()


def test_our_files_hold_no_pickle_and_no_path(exported: Path) -> None:
    with zipfile.ZipFile(exported) as zipped:
        contents = {name: zipped.read(name) for name in zipped.namelist()}
    assert not contents["model/data/sample_inputs/model.pt"]
    assert not any(b"data.pkl" in content for content in contents.values())
    assert str(Path(torch.__file__).parent).encode() not in exported.read_bytes()
    plain = archive.plain(exported)
    assert archive.plain(plain) == plain


def test_torch_itself_reads_our_files_and_we_read_its(
    network: nn.Module, exported: Path, tmp_path: Path
) -> None:
    array = random_image((1, 3, 32, 64))
    theirs = torch.export.load(io.BytesIO(exported.read_bytes())).module()
    assert difference(theirs(torch.from_numpy(array)).detach().numpy(), expected(network, array)) < 1e-5
    with torch.no_grad():
        program = torch.export.export(network.eval(), (torch.from_numpy(array),))
    torch.export.save(program, tmp_path / "theirs.pt2")
    output = RUNTIME.load(tmp_path / "theirs.pt2", Settings()).run(array)
    assert difference(output, expected(network, array)) < 1e-5
