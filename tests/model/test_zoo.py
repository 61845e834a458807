from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from efficientformer import PRESETS, InputError, create_model, list_models, save_model
from efficientformer.model import zoo
from efficientformer.model.zoo import Patterns
from tests.strategies import randomised, tiny

V1 = ["efficientformer_l1", "efficientformer_l3", "efficientformer_l7"]
V2 = ["efficientformerv2_l", "efficientformerv2_s0", "efficientformerv2_s1", "efficientformerv2_s2"]


@pytest.mark.parametrize(
    ("pattern", "exclude", "expected"),
    [
        ("*", (), V1 + V2),
        ("*l1", (), V1[:1]),
        ("efficientformer_l[37]", (), V1[1:]),
        (("*_l1", "*_s0"), (), [V1[0], V2[1]]),
        ("*", "*v2*", V1),
        ("*", ("*_s?", "*_l?"), V2[:1]),
        ("resnet*", (), []),
    ],
)
def test_list_models(pattern: Patterns, exclude: Patterns, expected: list[str]) -> None:
    assert list_models(pattern, exclude=exclude) == expected


def test_published_weights_are_listed_by_their_tags() -> None:
    tags = ("snap_300", "snap_dist_in1k")
    assert list_models("*_l1", pretrained=True) == [f"efficientformer_l1.{tag}" for tag in tags]
    assert list_models("*.snap_300", pretrained=True) == [f"{name}.snap_300" for name in V1]


@pytest.fixture
def small_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny())
    assert zoo.PRESETS is PRESETS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"num_classes": 3, "in_channels": 3, "input_size": (224, 224), "distilled": True}),
        ({"num_classes": 7}, {"num_classes": 7}),
        ({"in_chans": 1}, {"in_channels": 1}),
        ({"input_size": 96}, {"input_size": (96, 96)}),
        ({"input_size": (64, 96)}, {"input_size": (64, 96)}),
        ({"distilled": False}, {"distilled": False}),
    ],
)
@pytest.mark.usefixtures("small_zoo")
def test_options_reach_the_network(options: dict[str, Any], expected: dict[str, Any]) -> None:
    model = create_model("tiny", **options)
    architecture = model.architecture
    assert {name: getattr(architecture, name) for name in expected} == expected
    assert architecture.stages == tiny().stages
    assert not model.training
    x = torch.zeros(1, architecture.in_channels, *architecture.input_size)
    assert model(x).shape == (1, architecture.num_classes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientformer_l2", {}, "unknown model 'efficientformer_l2'; did you mean efficientformer_l"),
        ("", {}, "unknown model ''; known: .*efficientformer_l7"),
        ("tiny", {"input_size": 100}, "pad to 128×128"),
        ("tiny", {"num_classes": -1}, "whole number from 0"),
        ("tiny", {"pretrained": "/no/such/file.pth"}, "/no/such/file.pth: no such file"),
    ],
)
@pytest.mark.usefixtures("small_zoo")
def test_what_does_not_fit_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.usefixtures("small_zoo")
def test_a_checkpoint_is_loaded(as_text: bool, tmp_path: Path) -> None:
    saved = randomised(tiny())
    path = tmp_path / "weights.safetensors"
    save_model(path, saved)
    options = {"num_classes": 3, "input_size": 32}
    loaded = create_model("tiny", pretrained=str(path) if as_text else path, **options)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), saved(x))
