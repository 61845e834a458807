from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

import efficientformer as ef
from efficientformer import InputError
from efficientformer.runtimes.base import Settings, Traced, UnsupportedOperatorError, random_image
from efficientformer.runtimes.tflite.files import quantise
from efficientformer.runtimes.tflite.operators import Node, module_paths, place, read_nodes
from efficientformer.runtimes.tflite.profiler import Event
from efficientformer.runtimes.tflite.runtime import TfLite
from tests.strategies import randomised, tiny

RUNTIME = TfLite()
INT8 = Settings(precision="int8")
FILE = "model.tflite"
TOLERANCE = 1e-4
IMAGE = (1, 3, 16, 16)
WEIGHTED = {"CONV_2D", "FULLY_CONNECTED"}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, 8))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.path, self.act = nn.Conv2d(6, 6, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.path(x))


class Stream(nn.Module):
    """Many small steps along one large stream."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = x + 0.02 * step(x)
        return x


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x + 1


class Svd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


SHARED = nn.Linear(6, 6)
MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(3, 4, 3, stride=2, padding=1), IMAGE),
    "not square": (nn.Conv2d(3, 4, 3, padding=1), (1, 3, 8, 20)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 8, 8)),
    "normalised": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), IMAGE),
    "gelu": (nn.GELU(), (1, 6, 5, 5)),
    "relu": (nn.ReLU(), (1, 8)),
    "hard swish": (nn.Hardswish(), (1, 6, 5, 5)),
    "residual": (nn.Sequential(Residual(), nn.Conv2d(6, 4, 1)), (1, 6, 5, 5)),
    "pooling": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 4, 7, 9)),
    "layer norm": (nn.LayerNorm(6), (1, 5, 6)),
    "attention": (Attention(), (1, 9, 8)),
    "linear": (nn.Sequential(SHARED, nn.ReLU()), (1, 7, 6)),
    "shared": (nn.Sequential(SHARED, nn.GELU()), (1, 6)),
    "evaluated": (Doubling().train(), (1, 2)),
}


def difference(given: np.ndarray, module: nn.Module, array: np.ndarray) -> float:
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(array)).numpy()
    assert given.shape == wanted.shape
    assert given.dtype == np.float32
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def int8(module: nn.Module, images: np.ndarray, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The module in int8, calibrated on the images, ready to run."""
    RUNTIME.export(Traced(module, (1, *images.shape[1:])), folder / FILE, "int8", images)
    return RUNTIME.load(folder / FILE, INT8).run


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every module of the table, converted in one pass."""
    traced = [Traced(module, shape) for module, shape in MODULES.values()]
    paths = RUNTIME.export_many(traced, tmp_path_factory.mktemp("parts") / "new")
    return dict(zip(MODULES, paths, strict=True))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Our smallest network, as it is exported."""
    return ef.fold(randomised(tiny())).eval()


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in float32."""
    path = tmp_path_factory.mktemp("network") / "new" / FILE
    RUNTIME.export(Traced(network, (1, 3, 32, 32)), path)
    return path


@pytest.fixture(scope="module")
def quantised(exported: Path) -> Path:
    """The network in int8."""
    path = exported.with_name("int8.tflite")
    path.write_bytes(quantise(exported.read_bytes(), random_image((8, 3, 32, 32))))
    return path


def test_it_runs_here() -> None:
    assert RUNTIME.trouble() is None
    assert RUNTIME.files(Path(FILE)) == (Path(FILE),)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_computes_what_the_module_does(name: str, parted: dict[str, Path]) -> None:
    module, shape = MODULES[name]
    session = RUNTIME.load(parted[name], Settings())
    assert (session.shape, session.takes_float32) == (shape, True)
    array = random_image(shape)
    assert difference(session.run(array), module, array) <= TOLERANCE
    assert parted[name].stat().st_size < 12_000  # the weights of the others are not in it
    assert all(parameter.requires_grad for parameter in module.parameters())  # as it was


def test_parted_files_have_aligned_buffers_and_their_own_names(parted: dict[str, Path]) -> None:
    content = parted["attention"].read_bytes()
    model = schema.Model.GetRootAsModel(content, 0)
    weights = [model.Buffers(at).DataAsNumpy() for at in range(model.BuffersLength())]
    start = np.frombuffer(content, np.uint8).ctypes.data
    places = [one.ctypes.data - start for one in weights if isinstance(one, np.ndarray)]
    assert places
    assert all(place % 16 == 0 for place in places)
    assert {node.source for node in read_nodes(parted["attention"])} >= {"qkv", "project"}


def test_a_network_is_one_file_with_its_weights_inside(network: nn.Module, exported: Path) -> None:
    array = random_image((1, 3, 32, 32))
    for threads in (1, 2):
        given = RUNTIME.load(exported, Settings(threads=threads)).run(array)
        assert difference(given, network, array) <= TOLERANCE
    assert [one.name for one in exported.parent.iterdir()] == [FILE]
    assert exported.stat().st_size > 4 * sum(one.numel() for one in network.parameters())


def test_operators_are_traced_to_modules(network: nn.Module, exported: Path) -> None:
    trace = RUNTIME.operators(exported, Settings(), random_image((1, 3, 32, 32)), runs=4)
    modules = dict(network.named_modules(remove_duplicate=False))
    assert len(trace.whole_ms) == 4
    assert {one.source for one in trace.operators} <= {*modules}
    convolutions = [one for one in trace.operators if one.kind == "CONV_2D"]
    assert all(isinstance(modules[one.source], nn.Conv2d) for one in convolutions)
    assert len(convolutions) == sum(isinstance(one, nn.Conv2d) for one in modules.values())
    assert {one.role for one in trace.operators} == {"compute", "convert"}
    assert trace.operators[0].kind == "TRANSPOSE"  # from NCHW
    assert trace.operators[0].role == "convert"
    assert any("fused: 0.1, PAD" in one.detail for one in convolutions)
    assert 0 < sum(one.ms for one in trace.operators) < 2 * max(trace.whole_ms)


def test_an_activation_that_runs_by_itself_is_no_conversion(parted: dict[str, Path]) -> None:
    array = random_image(MODULES["residual"][1])
    trace = RUNTIME.operators(parted["residual"], Settings(), array, runs=1)
    assert [(one.kind, one.source, one.role) for one in trace.operators if one.kind != "TRANSPOSE"] == [
        ("CONV_2D", "0.path", "compute"),
        ("ADD", "0", "compute"),
        ("Clamp (NC)", "0.act", "compute"),
        ("CONV_2D", "1", "compute"),
    ]


def test_int8_takes_float32_and_has_a_scale_for_each_channel(network: nn.Module, quantised: Path) -> None:
    session, array = RUNTIME.load(quantised, INT8), random_image((1, 3, 32, 32))
    assert session.takes_float32
    assert session.shape == (1, 3, 32, 32)
    assert 0 < difference(session.run(array), network, array) < 0.25
    graph = schema.Model.GetRootAsModel(quantised.read_bytes(), 0).Subgraphs(0)
    tensors = [graph.Tensors(at) for at in range(graph.TensorsLength())]
    weights = [one for one in tensors if one.Quantization() and one.Quantization().ScaleLength() > 1]
    assert weights
    assert {one.Type() for one in weights} <= {schema.TensorType.INT8, schema.TensorType.INT32}


def test_int8_operators_know_their_place(quantised: Path) -> None:
    trace = RUNTIME.operators(quantised, INT8, random_image((1, 3, 32, 32)), runs=2)
    products = [one for one in trace.operators if one.kind in WEIGHTED]
    assert {one.kind for one in products} == WEIGHTED
    assert all("QC8" in one.detail and one.source for one in products)  # none is left in float32
    assert {one.role for one in trace.operators if one.kind == "QUANTIZE"} == {"convert"}


def test_int8_ranges_hold_the_loudest_image_wherever_it_is(tmp_path: Path) -> None:
    module, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), random_image((8, 3, 16, 16))
    images[5] *= 8
    given = {order: int8(module, images[::order], tmp_path)(images[5:6]) for order in (1, -1)}
    assert np.array_equal(given[1], given[-1])
    assert difference(given[1], module, images[5:6]) < 0.02


def test_int8_logits_may_exceed_those_of_calibration(tmp_path: Path) -> None:
    module, image = nn.Linear(32, 8), random_image((1, 32))
    assert difference(int8(module, image, tmp_path)(4 * image), module, 4 * image) < 0.02


def test_int8_does_not_round_the_residual_stream(tmp_path: Path) -> None:
    module, images = Stream(), random_image((4, 4, 8, 8))
    assert difference(int8(module, images, tmp_path)(images[:1]), module, images[:1]) < 0.002


def test_int8_needs_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8 needs images to calibrate on"):
        RUNTIME.export(Traced(nn.ReLU(), (1, 8)), tmp_path / FILE, "int8")


def test_files_of_integers_load_and_run_in_their_own_numbers(parted: dict[str, Path], tmp_path: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    module, shape = MODULES["convolution"]
    work = quantizer.Quantizer(str(parted["convolution"]), recipe.static_wi8_ai8())
    array, path = random_image(shape), tmp_path / FILE
    with warnings.catch_warnings(action="ignore"):
        ranges = work.calibrate({"serving_default": [{"args_0": array}]}, num_threads=1)
        path.write_bytes(bytes(work.quantize(ranges).quantized_model or b""))
    session = RUNTIME.load(path, INT8)
    assert not session.takes_float32
    assert difference(session.run(array), module, array) < 0.05
    assert RUNTIME.operators(path, INT8, array, runs=1).operators


def test_an_operator_without_a_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"tflite: .* aten\._linalg_svd\.default$"):
        RUNTIME.export(Traced(Svd(), (1, 4, 4)), tmp_path / FILE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not a TensorFlow Lite file"), (b"TFL3" * 30, "cannot load it"), (b"PK" * 30, "not a TensorFlow")],
)
def test_a_damaged_file_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        RUNTIME.load(path, Settings())
    assert str(caught.value).startswith(f"{path}: ")


def test_half_a_file_and_none_are_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(exported.read_bytes()[:-900])
    with pytest.raises(InputError, match=r"model\.tflite: TensorFlow Lite cannot load it: "):
        RUNTIME.load(tmp_path / FILE, Settings())
    with pytest.raises(InputError, match=r"none\.tflite: No such file"):
        RUNTIME.load(tmp_path / "none.tflite", Settings())


def test_another_shape_is_refused(parted: dict[str, Path]) -> None:
    session = RUNTIME.load(parted["convolution"], Settings())
    with pytest.raises(InputError, match=r"takes \(1, 3, 16, 16\), not \(1, 3, 8, 8\)"):
        session.run(random_image((1, 3, 8, 8)))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux shows them")
def test_a_session_has_as_many_threads_as_asked(parted: dict[str, Path]) -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    kept = []
    for threads, more in ((1, 0), (3, 2)):
        session = RUNTIME.load(parted["convolution"], Settings(threads=threads))
        session.run(random_image(IMAGE))
        kept.append(session)
        assert len(list(Path("/proc/self/task").iterdir())) == before + more


def test_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / FILE
    RUNTIME.export(Traced(nn.Conv2d(3, 4, 1), IMAGE), path, "int8", random_image((2, 3, 16, 16)))
    RUNTIME.load(path, INT8).run(random_image(IMAGE))
    RUNTIME.operators(path, INT8, random_image(IMAGE), 1)
    assert capfd.readouterr() == ("", "")


def test_running_imports_no_framework(parted: dict[str, Path]) -> None:
    code = f"""
import sys
import warnings
from pathlib import Path
from efficientformer.runtimes.base import Settings, random_image
from efficientformer.runtimes.tflite.runtime import TfLite
path, array = Path({str(parted["convolution"])!r}), random_image({IMAGE})
TfLite().load(path, Settings()).run(array)
TfLite().operators(path, Settings(), array, 1)
print(sorted({{"torch", "litert_torch", "jax", "tensorflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("[]", "", 0)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("torch.nn.modules.container.Sequential/our.Block_3/nn.Conv2d_conv_dw;2", ["3.conv_dw"]),
        ("nn.Seq/nn.Act_1;;nn.Seq/nn.Conv2d_0;1", ["0", "1"]),
        ("nn.Seq/nn._Hidden_4;", ["4"]),
        ("nn.Conv2d;3", []),
        ("serving_default_output_0_output", []),
        ("MobilenetV2/Conv/Relu6", []),
    ],
)  # fmt: skip
def test_paths_are_read_from_names(name: str, paths: list[str]) -> None:
    assert list(module_paths(name)) == paths


def test_events_find_their_nodes() -> None:
    kinds = ("PAD", "CONV_2D", "GELU", "SOFTMAX", "ADD", "RELU", "CONV_2D")
    nodes = [Node(kind, "", (), "", False) for kind in kinds]
    tags = ("Fully Connected (NC, F32)", "GELU (NC)", "Copy (NC)", "Add (ND)", "Convolution (NHWC, F32)")
    events = [Event(tag, True, at, 1) for at, tag in enumerate(tags)]
    events.insert(2, Event("SOFTMAX", False, 3, 1))
    assert place(events, nodes) == [1, 2, 3, None, 4, 6]
