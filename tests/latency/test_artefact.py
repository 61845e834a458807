from __future__ import annotations

import importlib.metadata
import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from efficientformer import Architecture, EfficientFormer, InputError, Stage
from efficientformer.architecture import Block
from efficientformer.latency import artefact as module
from efficientformer.latency.artefact import (
    AGREEMENT,
    BOUNDS,
    ExportMismatchError,
    export,
    random_images,
    size_of,
)
from efficientformer.latency.target import Target
from efficientformer.runtimes import (
    RUNTIMES,
    MissingRuntimeError,
    Settings,
    Traced,
    UnsupportedOperatorError,
    usable,
)
from efficientformer.runtimes.onnxruntime import OnnxRuntime
from tests.strategies import randomised, tiny

TARGET = Target()
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[EfficientFormer, Path, module.Artefact]:
    network, path = randomised(tiny()), tmp_path_factory.mktemp("exported") / "tiny.onnx"
    return network, path, export(network, path, TARGET, IMAGES)


Exported = tuple[EfficientFormer, Path, module.Artefact]


def test_the_file_computes_what_the_network_does(exported: Exported) -> None:
    network, path, _ = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fresh = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        wanted = network(fresh).numpy()
    given = np.concatenate([session.run(None, {"images": image[None]})[0] for image in fresh.numpy()])
    assert np.abs(given - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_artefact_is_its_own_proof(exported: Exported) -> None:
    _, path, artefact = exported
    assert artefact.path == "tiny.onnx"
    assert artefact.target == str(TARGET)
    assert artefact.size_bytes == path.stat().st_size
    assert artefact.max_difference <= artefact.bound == BOUNDS["fp32"] == 1e-4
    assert (artefact.images, artefact.photographs, artefact.agreement) == (6, True, 1.0)
    assert artefact.seconds > 0
    assert module.Artefact(**artefact.to_json()) == artefact
    assert [one.name for one in path.parent.iterdir()] == ["tiny.onnx"]  # nothing else is left


def test_what_can_be_melted_is_not_in_the_graph(exported: Exported) -> None:
    operators = Counter(node.op_type for node in onnx.load(exported[1]).graph.node)
    assert operators["BatchNormalization"] == 0
    assert operators["Conv"] == 2 + 3 + 4 * 2 + 2 * 4  # stem, embeddings, pooling, attention
    assert operators["Softmax"] == 2
    assert operators["AveragePool"] == 4
    assert operators["Gather"] == 0  # the attention bias is looked up once, before


# A wrong export is an error with its figure, by the real runtime


def attention_only() -> Architecture:
    """Next to nothing: the exporter's time grows with the layers."""
    stages = (*(Stage(4, ()) for _ in range(3)), Stage(4, (Block("attention", 1),)))
    return Architecture(stages, input_size=(32, 32), num_classes=3, attention=tiny().attention)


def test_wrong_folding_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: EfficientFormer) -> nn.Module:
        folded = real(network)
        folded.get_submodule("0.0").weight[0, 0, 0, 0] += 0.5
        return folded

    real = module.fold
    monkeypatch.setattr(module, "fold", wrong)
    with pytest.raises(ExportMismatchError, match=r"differ from PyTorch's by [0-9.]+e[-+]\d+ of") as caught:
        export(randomised(attention_only()), tmp_path / "wrong.onnx", TARGET, IMAGES)
    assert "wrong.onnx" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def small_network(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))


class Exchanging(OnnxRuntime):
    """Writes the file of another network than the one it was given."""

    def __init__(self, other: nn.Module) -> None:
        self.other = other

    def export(self, traced: Traced, path: Path, *rest: Any) -> None:
        super().export(Traced(self.other.eval(), traced.shape), path, *rest)


def diverged() -> nn.Module:
    network = small_network()
    with torch.no_grad():
        network.get_parameter("3.bias")[0] = np.nan
    return network


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: small_network(seed=1),
            r"differ from PyTorch's by \d\.\d\de.\d\d of the largest; at most 0\.0001",
        ),
        (diverged, "differ from PyTorch's by nan of the largest"),
        (lambda: small_network(classes=5), r"gives \(5,\), the network \(3,\)"),
        (nn.Flatten, r"\d+ bytes cannot hold the network's 960 weights in fp32"),
    ],
)
def test_a_file_of_another_network_is_an_error(
    other: Callable[[], nn.Module], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, wrong = small_network(), other()
    monkeypatch.setitem(RUNTIMES, "onnxruntime", Exchanging(wrong))
    path = tmp_path / "wrong.onnx"
    path.write_bytes(b"an earlier, good one")
    with pytest.raises(ExportMismatchError, match=message) as caught:
        export(network, path, TARGET, IMAGES)
    assert str(path) in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["wrong.onnx"]
    assert path.read_bytes() == b"an earlier, good one"


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[..., :8, :8]).real.flatten(1)


def test_an_operator_that_the_converter_does_not_know_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match="ONNX: the network cannot be exported: ") as caught:
        export(Eigenvalues(), tmp_path / "a.onnx", TARGET, IMAGES)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    assert "linalg_eig" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# What is compared, by a runtime that runs in this process


class Uncomputable:
    """A runtime that writes zeros for the weights, and whose files cannot be run here."""

    name, packages, extra, suffix = "fake", ("numpy",), "fake", ".fake"
    devices, precisions = ("cpu",), ("fp32", "fp16", "bf16", "int8")
    takes_float32 = True

    def __init__(self, change: Callable[[np.ndarray], np.ndarray], byte_count: int = 10**6) -> None:
        self.change, self.byte_count = change, byte_count
        self.shape: tuple[int, ...] = ()
        self.asked: list[Any] = []

    def trouble(self, device: str = "cpu") -> str | None:
        return "its files can only be computed, slowly"

    def files(self, path: Path) -> tuple[Path, ...]:
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        self.module, self.shape = traced.module, traced.shape
        self.asked = [precision, calibration]
        path.write_bytes(bytes(self.byte_count))

    def load(self, path: Path, settings: Settings) -> FakeRuntime:
        raise AssertionError("its files cannot be run here")


class FakeRuntime(Uncomputable):
    """Computes its files by running the module itself, the outputs changed as it is told."""

    def check_session(self, path: Path) -> FakeRuntime:
        assert path.exists()
        return self

    def run(self, array: np.ndarray) -> np.ndarray:
        assert array.shape == self.shape
        with torch.no_grad():
            return self.change(self.module(torch.from_numpy(array)).numpy())


def fake_export(
    fake: Any, path: Path, monkeypatch: pytest.MonkeyPatch, precision: str = "fp32", **options: Any
) -> module.Artefact:
    monkeypatch.setitem(RUNTIMES, "fake", fake)
    return export(randomised(tiny()), path, Target("fake", precision=precision), IMAGES, **options)


@pytest.mark.parametrize(
    ("precision", "change", "difference"),
    [
        ("fp32", lambda logits: logits, 0),
        ("fp32", lambda logits: logits * 1.00005, 5e-5),
        ("fp32", lambda logits: logits * 0.99995, 5e-5),
        ("fp32", lambda logits: logits * 1.001, None),
        ("fp16", lambda logits: logits * 1.001, 1e-3),
        ("fp16", lambda logits: logits * 1.03, None),
        ("bf16", lambda logits: logits * 1.03, 0.03),
        ("bf16", lambda logits: logits * 1.2, None),
        ("int8", lambda logits: logits * 1.2, 0.2),
        ("int8", lambda logits: logits * 1.6, None),
        ("int8", lambda logits: -logits, None),
        ("fp32", lambda logits: -logits, None),
        ("fp32", lambda logits: logits[:, ::-1], None),
        ("fp32", lambda logits: logits * np.inf, None),
        ("int8", lambda logits: np.where(np.arange(3) == 1, np.nan, logits), None),
        ("int8", lambda logits: logits[:, :2], None),
    ],
)
def test_the_difference_is_that_of_the_logits_over_the_largest(
    precision: str,
    change: Callable[[np.ndarray], np.ndarray],
    difference: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.fake"
    if difference is not None:
        artefact = fake_export(FakeRuntime(change), path, monkeypatch, precision)
        assert artefact.max_difference == pytest.approx(difference, abs=5e-6)
        assert artefact.bound == BOUNDS[precision]
        return
    path.write_bytes(b"an earlier, good one")
    with pytest.raises(ExportMismatchError, match=re.escape(str(path))):
        fake_export(FakeRuntime(change), path, monkeypatch, precision)
    assert path.read_bytes() == b"an earlier, good one"


def test_another_bound_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, path = FakeRuntime(lambda logits: logits * 1.6), tmp_path / "model.fake"
    artefact = fake_export(far, path, monkeypatch, "int8", photographs=False, bound=module.UNTRAINED_BOUND)
    assert (artefact.bound, artefact.max_difference) == (1.0, pytest.approx(0.6, abs=1e-5))
    opposite = FakeRuntime(lambda logits: -logits)
    with pytest.raises(ExportMismatchError, match=r"at most 1 is allowed in int8"):
        fake_export(opposite, path, monkeypatch, "int8", photographs=False, bound=module.UNTRAINED_BOUND)


def two_of_six_wrong(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    monkeypatch.setitem(BOUNDS, "fp32", 1e9)
    turns = itertools.count()
    return FakeRuntime(lambda logits: -logits if next(turns) % 6 < 2 else logits)


@pytest.mark.parametrize(
    ("least", "photographs", "fine"), [(0.66, True, True), (0.67, True, False), (0.67, False, True)]
)
def test_agreement_counts_images_with_the_same_first_guess(
    least: float, photographs: bool, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On random numbers classes lie near each other, and nothing is asked."""
    monkeypatch.setitem(AGREEMENT, "fp32", least)
    fake, path = two_of_six_wrong(monkeypatch), tmp_path / "model.fake"
    if fine:
        artefact = fake_export(fake, path, monkeypatch, photographs=photographs)
        assert artefact.agreement == pytest.approx(4 / 6)
        return
    with pytest.raises(
        ExportMismatchError, match=r"PyTorch's on 66\.7% of 6 images; at least 67% is asked in fp32"
    ):
        fake_export(fake, path, monkeypatch, photographs=photographs)
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_is_given_precision_and_calibration_and_a_folded_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuntime(lambda logits: logits)
    artefact = fake_export(
        fake, tmp_path / "a.fake", monkeypatch, "int8", photographs=False, calibration=IMAGES[:2]
    )
    precision, calibration = fake.asked
    assert precision == "int8"
    assert np.array_equal(calibration, IMAGES[:2].numpy())
    assert artefact.photographs is False
    assert fake.shape == (1, 3, 32, 32)
    assert not any(isinstance(part, nn.BatchNorm2d) or part.training for part in fake.module.modules())


def test_another_network_than_ours_is_exported_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, network = FakeRuntime(lambda logits: logits), small_network().train()
    monkeypatch.setitem(RUNTIMES, "fake", fake)
    export(network, tmp_path / "new" / "a.fake", Target("fake"), IMAGES)
    assert fake.module is network
    assert not network.training


@pytest.mark.parametrize(("precision", "least"), [("fp32", 4), ("fp16", 2), ("bf16", 2), ("int8", 1)])
def test_a_file_too_small_for_the_weights_is_an_error(
    precision: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuntime(lambda logits: logits)
    fake_export(fake, tmp_path / "model.fake", monkeypatch, precision)
    weights = sum(part.numel() for part in fake.module.parameters() if part.ndim > 1)
    fake.byte_count = least * weights
    fake_export(fake, tmp_path / "model.fake", monkeypatch, precision)
    fake.byte_count = int(0.85 * least * weights)
    message = f"{fake.byte_count} bytes cannot hold the network's {weights} weights in {precision}"
    with pytest.raises(ExportMismatchError, match=message):
        fake_export(fake, tmp_path / "model.fake", monkeypatch, precision)


# Files beside the main one


class Sidecars(FakeRuntime):
    """An artefact of a graph, its weights beside it and a folder of more."""

    def files(self, path: Path) -> tuple[Path, ...]:
        return (path, path.with_suffix(".bin"), path.with_suffix(".more"))

    def export(self, traced: Traced, path: Path, *rest: Any) -> None:
        super().export(traced, path, *rest)
        path.with_suffix(".bin").write_bytes(b"weights")
        (path.with_suffix(".more") / "inner").mkdir(parents=True)
        (path.with_suffix(".more") / "inner" / "part").write_bytes(b"12345")


def test_all_files_of_an_artefact_are_moved_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.fake"
    (path.with_suffix(".more")).mkdir()
    (path.with_suffix(".more") / "stale").write_bytes(b"of an earlier export")
    fake = Sidecars(lambda logits: logits)
    for _ in range(2):  # the second replaces the first
        artefact = fake_export(fake, path, monkeypatch)
        found = sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file())
        assert found == ["model.bin", "model.fake", "model.more/inner/part"]
        assert artefact.size_bytes == 10**6 + 7 + 5 == size_of(fake, path)


def test_none_of_them_is_touched_by_a_wrong_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.fake"
    fake_export(Sidecars(lambda logits: logits), path, monkeypatch)
    path.with_suffix(".bin").write_bytes(b"earlier")
    with pytest.raises(ExportMismatchError):
        fake_export(Sidecars(lambda logits: -logits), path, monkeypatch)
    assert path.with_suffix(".bin").read_bytes() == b"earlier"
    assert {one.name for one in tmp_path.iterdir()} == {"model.bin", "model.fake", "model.more"}


def test_the_main_file_is_moved_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, there is no main file, and so no artefact of two halves where there was none."""
    moved: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        moved.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    fake_export(Sidecars(lambda logits: logits), tmp_path / "model.fake", monkeypatch)
    assert moved[-1] == "model.fake"
    assert len(moved) == 3


# What is not installed


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def hide(package: str) -> None:
        real = importlib.metadata.version

        def version(name: str) -> str:
            if name == package:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return hide


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_runtime_names_what_installs_it(
    name: str, without: Callable[[str], None], tmp_path: Path
) -> None:
    runtime = RUNTIMES[name]
    extra = f"[{runtime.extra}]" if runtime.extra else ""
    without(runtime.packages[0])
    line = f"{name}: {runtime.packages[0]} is not installed; pip install 'efficientformer{extra}'"
    with pytest.raises(MissingRuntimeError, match=re.escape(line)):
        export(small_network(), tmp_path / "a", Target(name), IMAGES)
    with pytest.raises(MissingRuntimeError, match=f"^{name}: "):
        usable(name)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_cannot_compute_its_files_here_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Uncomputable(lambda logits: logits)
    with pytest.raises(InputError, match="fake: its files can only be computed, slowly"):
        fake_export(fake, tmp_path / "a.fake", monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_runtime_is_the_users_error() -> None:
    with pytest.raises(InputError, match="runtime 'abacus' is not known; known: onnxruntime"):
        usable("abacus")


def test_random_images_are_the_same_each_time() -> None:
    generator = torch.get_rng_state()
    first, second = random_images((3, 8, 8), 4), random_images((3, 8, 8), 4)
    assert torch.equal(first, second)
    assert first.shape == (4, 3, 8, 8)
    assert torch.equal(torch.get_rng_state(), generator)
