from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efficientformer import InputError, fold
from efficientformer.runtimes.base import (
    NoProfilerError,
    Settings,
    Traced,
    UnsupportedOperatorError,
    random_image,
)
from efficientformer.runtimes.coreml import interpreter as coreml_check
from efficientformer.runtimes.coreml.runtime import CoreMl
from tests.strategies import randomised, tiny

RUNTIME = CoreMl()
BOUND = {"fp32": 1e-5, "fp16": 2e-2}


class Tokens(nn.Module):
    """A map's pixels as tokens, with a class token, attended to; the class token's values."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 1, 12), 0.3))
        self.norm, self.qkv = nn.LayerNorm(12), nn.Linear(12, 36)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token, x.flatten(2).transpose(1, 2)), 1)
        q, k, v = self.qkv(self.norm(x)).reshape(1, -1, 3, 2, 6).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        return x.transpose(1, 2).reshape(1, -1, 12)[:, 0]


class Sampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        larger = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.addcmul(larger[:, :, ::2, 1::2], x, x.sigmoid()) / (1 + x.square().mean(1, keepdim=True))


class Ordered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def relative(given: np.ndarray, wanted: np.ndarray) -> float:
    assert given.shape == wanted.shape and given.dtype == np.float32
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def outputs(module: nn.Module, array: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(array)).numpy()


def mapped() -> nn.Module:
    first = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish())
    pools = (nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(3, 2, 1), nn.SiLU())
    return nn.Sequential(*first, *pools, nn.BatchNorm2d(8), nn.GroupNorm(1, 8), nn.GELU("tanh"), Sampled())


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "map": (mapped(), (1, 3, 18, 26)),
    "tokens": (Tokens(), (1, 12, 3, 4)),
    "vector": (nn.Sequential(nn.Linear(8, 5), nn.Softmax(-1)), (1, 8)),
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return fold(randomised(tiny(input_size=(64, 32))))


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {one: tmp_path_factory.mktemp(one) / "new" / "v1.2.mlpackage" for one in RUNTIME.precisions}
    for precision, path in paths.items():
        RUNTIME.export(Traced(network, (1, 3, 64, 32)), path, precision)
    return paths


@pytest.mark.parametrize("name", MODULES)
def test_an_interpreted_program_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    module, shape = MODULES[name]
    [path] = RUNTIME.export_many([Traced(module.train(), shape)], tmp_path)
    session = RUNTIME.check_session(path)
    x = random_image(shape)
    assert session.shape == shape and session.takes_float32
    assert relative(session.run(x), outputs(module, x)) < BOUND["fp32"]


@pytest.mark.parametrize("precision", RUNTIME.precisions)
def test_a_folded_network_in_both_precisions(
    precision: str, network: nn.Module, exported: dict[str, Path]
) -> None:
    x = random_image((1, 3, 64, 32))
    difference = relative(coreml_check.interpret(exported[precision], x), outputs(network, x))
    assert difference < BOUND[precision]
    assert (difference > 1e-5) == (precision == "fp16")


def test_a_package_is_a_folder_with_its_weights(exported: dict[str, Path]) -> None:
    path = exported["fp32"]
    assert RUNTIME.files(path) == (path,)
    assert {"Manifest.json", "model.mlmodel", "weight.bin"} <= {one.name for one in path.rglob("*")}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_exporting_again_replaces_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mlpackage"
    levels = logging.getLogger("coremltools").level
    for side in (4, 6):
        RUNTIME.export(Traced(nn.ReLU(), (1, 3, side, side)), path)
    assert RUNTIME.check_session(path).shape == (1, 3, 6, 6)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("coremltools").level == levels


def test_an_operator_without_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match="bessel_j0") as caught:
        RUNTIME.export(Traced(Ordered(), (1, 3, 4, 4)), tmp_path / "a.mlpackage")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_check_names_what_it_does_not_know(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(coreml_check.OPERATORS, "gelu")
    with pytest.raises(UnsupportedOperatorError, match="no counterpart for gelu"):
        coreml_check.interpret(exported["fp32"], random_image((1, 3, 64, 32)))


def test_files_that_are_none_are_told(exported: dict[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mlpackage"
    for one in filter(Path.is_file, exported["fp32"].rglob("*")):
        copy = damaged / one.relative_to(exported["fp32"])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(one.read_bytes()[:100] if one.name == "model.mlmodel" else one.read_bytes())
    (tmp_path / "empty.mlpackage").mkdir()
    (tmp_path / "file.mlpackage").write_bytes(b"PK")
    for name in ("damaged", "empty", "file", "none"):
        path = tmp_path / f"{name}.mlpackage"
        for reader in (lambda path: RUNTIME.load(path, Settings()), RUNTIME.check_session):
            with pytest.raises(InputError, match="mlpackage: ") as caught:
                reader(path)
            assert str(caught.value).startswith(str(path))


def test_precisions_and_devices_that_it_has_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no precision 'int8'"):
        RUNTIME.export(Traced(nn.ReLU(), (1, 8)), tmp_path / "a.mlpackage", "int8")
    assert "not on cuda" in str(RUNTIME.trouble("cuda"))


def test_it_has_no_profiler(exported: dict[str, Path]) -> None:
    with pytest.raises(NoProfilerError, match="estimates"):
        RUNTIME.operators(exported["fp32"], Settings(), random_image((1, 3, 64, 32)), 1)


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs here")
def test_elsewhere_than_on_macos_it_says_so(exported: dict[str, Path]) -> None:
    assert "macOS only" in str(RUNTIME.trouble())
    with pytest.raises(InputError, match="macOS only"):
        RUNTIME.load(exported["fp32"], Settings())


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")
@pytest.mark.parametrize("device", RUNTIME.devices)
def test_core_ml_computes_what_the_module_does(
    device: str, network: nn.Module, exported: dict[str, Path]
) -> None:
    x = random_image((1, 3, 64, 32))
    for precision in RUNTIME.precisions:
        given = RUNTIME.load(exported[precision], Settings(device, 1, precision)).run(x)
        assert relative(given, outputs(network, x)) < 2e-2
