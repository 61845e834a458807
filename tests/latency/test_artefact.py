from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from efficientformer import Architecture, EfficientFormer, Stage
from efficientformer.architecture import Block
from efficientformer.latency import artefact as module
from efficientformer.latency.artefact import (
    ExportMismatchError,
    export,
    network_runner,
    runner,
)
from efficientformer.latency.runtimes import RUNTIMES, Traced
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
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
    assert artefact.max_difference <= module.MAX_DIFFERENCE
    assert (artefact.images, artefact.agreement) == (6, 1.0)
    assert artefact.to_json()["max_difference"] == artefact.max_difference


def test_what_can_be_melted_is_not_in_the_graph(exported: Exported) -> None:
    operators = Counter(node.op_type for node in onnx.load(exported[1]).graph.node)
    assert operators["BatchNormalization"] == 0
    assert operators["Conv"] == 2 + 3 + 4 * 2 + 2 * 4  # stem, embeddings, pooling, attention
    assert operators["Softmax"] == 2
    assert operators["AveragePool"] == 4
    assert operators["Gather"] == 0  # the attention bias is looked up once, before


# A wrong export is an error with its figure


def attention_only() -> Architecture:
    """Next to nothing: the exporter's time grows with the layers."""
    stages = (*(Stage(4, ()) for _ in range(3)), Stage(4, (Block("attention", 1),)))
    return Architecture(stages, input_size=(32, 32), num_classes=3, attention=tiny().attention)


@pytest.mark.parametrize(
    ("value", "figure"), [(0.5, r"differ by [0-9.]+e[-+]\d+, at most 0\.0001"), (np.nan, "differ by nan")]
)
def test_a_wrong_export_is_an_error(
    value: float, figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: EfficientFormer) -> nn.Module:
        folded = real(network)
        folded.get_submodule("0.0").weight[0, 0, 0, 0] += value
        return folded

    real = module.fold
    monkeypatch.setattr(module, "fold", wrong)
    with pytest.raises(ExportMismatchError, match=figure) as caught:
        export(randomised(attention_only()), tmp_path / "wrong.onnx", TARGET, IMAGES)
    assert "wrong.onnx" in str(caught.value)
    assert not (tmp_path / "wrong.onnx").exists()


class FakeRuntime:
    """Writes zeros for the weights and runs the module itself, its outputs changed as it is told."""

    suffix, devices, precisions = ".fake", ("cpu",), ("fp32",)

    def __init__(self, change: Callable[[np.ndarray], np.ndarray], byte_count: int = 10**6) -> None:
        self.change, self.byte_count = change, byte_count
        self.shape: tuple[int, ...] = ()

    def version(self) -> str:
        return "1"

    def export(self, traced: Traced, path: Path) -> None:
        self.module, self.shape = traced.module, traced.shape
        path.write_bytes(bytes(self.byte_count))

    def load(self, source: Path | bytes, threads: int) -> FakeRuntime:
        return self

    def run(self, array: np.ndarray) -> np.ndarray:
        assert array.shape == self.shape
        with torch.no_grad():
            return self.change(self.module(torch.from_numpy(array)).numpy())


def fake_export(fake: FakeRuntime, path: Path, monkeypatch: pytest.MonkeyPatch) -> module.Artefact:
    monkeypatch.setitem(RUNTIMES, "fake", fake)
    return export(randomised(tiny()), path, Target("fake"), IMAGES)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda logits: logits, 0),
        (lambda logits: logits * 1.00005, 5e-5),
        (lambda logits: logits * 0.99995, 5e-5),
        (lambda logits: logits * 1.001, None),
        (lambda logits: -logits, None),
        (lambda logits: logits[:, ::-1], None),
        (lambda logits: logits * np.inf, None),
        (lambda logits: np.where(np.arange(3) == 1, np.nan, logits), None),
    ],
)
def test_the_difference_is_that_of_the_logits_over_the_largest(
    change: Callable[[np.ndarray], np.ndarray],
    difference: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.fake"
    if difference is not None:
        artefact = fake_export(FakeRuntime(change), path, monkeypatch)
        assert artefact.max_difference == pytest.approx(difference, abs=5e-6)
        return
    path.write_bytes(b"an earlier, good one")
    with pytest.raises(ExportMismatchError, match=re.escape(str(path))):
        fake_export(FakeRuntime(change), path, monkeypatch)
    assert path.read_bytes() == b"an earlier, good one"


def test_agreement_counts_images_with_the_same_first_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DIFFERENCE", 1e9)
    turns = iter(range(6))

    def two_wrong(logits: np.ndarray) -> np.ndarray:
        return -logits if next(turns) < 2 else logits

    artefact = fake_export(FakeRuntime(two_wrong), tmp_path / "model.fake", monkeypatch)
    assert artefact.agreement == pytest.approx(4 / 6)


def test_a_file_too_small_for_the_weights_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportMismatchError, match=r"100 bytes cannot hold the network's [0-9]+ bytes"):
        fake_export(FakeRuntime(lambda logits: logits, 100), tmp_path / "model.fake", monkeypatch)


# What is timed


def test_a_runner_runs_the_file_on_random_numbers(exported: Exported) -> None:
    network, path, _ = exported
    call = runner(path, TARGET, (1, 3, 32, 32))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32))
    with torch.no_grad():
        wanted = network(x).numpy()
    assert np.allclose(call(), wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.array_equal(call(), call())


@pytest.mark.parametrize("ours", [True, False])
def test_our_networks_are_folded_before_they_are_timed(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Traced] = []

    class Recorder(FakeRuntime):
        def export_many(self, traced: list[Traced]) -> list[bytes]:
            seen.extend(traced)
            return [b""]

    monkeypatch.setitem(RUNTIMES, "fake", Recorder(lambda logits: logits))
    network = untrained(tiny()) if ours else nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    network_runner(network, Target("fake"), (3, 32, 32))
    assert seen[0].shape == (1, 3, 32, 32)
    norms = [part for part in seen[0].module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert (len(norms) == 0) is ours
    assert not seen[0].module.training
