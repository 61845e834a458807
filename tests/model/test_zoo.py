from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import adapt_input_conv

from efficientformer import (
    PRESETS,
    Architecture,
    EfficientFormer,
    InputError,
    create_model,
    list_models,
    save_model,
    to_layout,
)
from efficientformer.model import zoo
from efficientformer.model.layouts import Layout
from efficientformer.model.zoo import Patterns
from efficientformer.presets import pooling
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
    assert list_models(pattern, exclude_filters=exclude) == expected


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
        ({"num_classes": 0}, {"num_classes": 0}),
        ({"global_pool": ""}, {"global_pool": ""}),
        (
            {"num_classes": 2, "in_chans": 4, "input_size": (32, 96)},
            {"in_channels": 4, "input_size": (32, 96)},
        ),
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
    positions = architecture.grid(3)[0] * architecture.grid(3)[1]
    channels = architecture.num_classes or architecture.widths[3]
    assert model(x).shape == ((1, channels) if architecture.global_pool else (1, positions, channels))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientformer_l2", {}, "unknown model 'efficientformer_l2'; did you mean efficientformer_l"),
        ("", {}, "unknown model ''; known: .*efficientformer_l7"),
        ("tiny", {"input_size": 100}, "pad to 128×128"),
        ("tiny", {"num_classes": -1}, "whole number from 0"),
        ("tiny", {"pretrained": "/no/such/file.pth"}, "/no/such/file.pth: no such file"),
        ("tiny", {"pretrained": True}, "no published weights are known for 'tiny'"),
        ("tiny.tag", {}, "no published weights are known for 'tiny.tag'"),
        ("tiny", {"in_chans": 0}, "in_channels must be a whole number from 1"),
        ("tiny", {"input_size": (32, 32, 32)}, "must be a multiple of 32"),
        ("tiny", {"global_pool": "max"}, "unknown global_pool 'max'; known: avg, ''"),
        ("tiny", {"drop_path_rate": 1.0}, "a probability below 1"),
        ("tiny", {"out_indices": (1,)}, "set that as well"),
        ("tiny", {"features_only": True, "out_indices": (4,)}, "there are 4"),
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


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.snap_dist_in1k", V1 + V2), (("*_s0.*", "*_l7.snap_3*"), [V1[2], V2[1]]), ("efficientformer", [])],
)
def test_tags_are_matched_with_and_without(pattern: Patterns, expected: list[str]) -> None:
    listed = list_models(pattern, pretrained=True)
    assert {name.partition(".")[0] for name in listed} == set(expected)


def test_every_listed_name_is_built_and_every_tag_is_known() -> None:
    assert {name.partition(".")[0] for name in list_models(pretrained=True)} == set(list_models())
    with torch.device("meta"):
        for name in list_models() + list_models(pretrained=True):
            preset = name.partition(".")[0]
            assert EfficientFormer(PRESETS[preset]).num_classes == 1000


def saved(path: Path, layout: Layout | None, architecture: Architecture) -> EfficientFormer:
    network = randomised(architecture)
    torch.save(network.state_dict() if layout is None else to_layout(network, layout), path)
    return network


SMALL = dataclasses.replace(pooling((4, 6, 6, 8), (1, 1, 1, 2)), input_size=(64, 64), num_classes=5)
LAYOUTS = pytest.mark.parametrize("layout", [None, "timm", "official", "transformers"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "small", SMALL)


@LAYOUTS
@pytest.mark.parametrize("classes", [None, 5, 3, 0])
@pytest.mark.usefixtures("small")
def test_classifiers_of_another_number_are_left_to_be_trained(
    layout: Layout | None, classes: int | None, tmp_path: Path
) -> None:
    source = saved(tmp_path / "weights.pth", layout, SMALL)
    options = {} if classes is None else {"num_classes": classes}
    model = create_model("small", tmp_path / "weights.pth", input_size=64, **options)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.forward_features(x), source.forward_features(x))
        if classes in (None, 5):
            assert torch.equal(model(x), source(x))
        elif classes == 0:
            assert torch.equal(model(x), source.forward_head(source.forward_features(x), pre_logits=True))
        else:
            assert model(x).shape == (2, 3)
            assert all(one.weight.std() < 0.03 and not one.bias.any() for one in model.get_classifier())


@pytest.mark.usefixtures("small")
def test_another_number_of_classes_must_be_asked_for(tmp_path: Path) -> None:
    saved(tmp_path / "seven.pth", "timm", dataclasses.replace(SMALL, num_classes=7))
    with pytest.raises(InputError, match=r"is \(7.*, this network needs \(5"):
        create_model("small", tmp_path / "seven.pth", input_size=64)


@LAYOUTS
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6])
@pytest.mark.usefixtures("small")
def test_the_first_convolution_is_adapted_as_timms(
    layout: Layout | None, channels: int, tmp_path: Path
) -> None:
    source = saved(tmp_path / "weights.pth", layout, SMALL)
    model = create_model("small", tmp_path / "weights.pth", in_chans=channels, input_size=64)
    weight = source.stem.conv1.weight
    assert torch.equal(model.stem.conv1.weight, adapt_input_conv(channels, weight))
    assert torch.equal(model.stem.conv1.bias, source.stem.conv1.bias)
    if channels % 3 == 0:  # the channels repeated in turn see what they saw
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            given = model(x.repeat(1, channels // 3, 1, 1))
        assert torch.allclose(given, source(x), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.usefixtures("small")
def test_weights_of_other_channels_fit_a_network_that_has_them(channels: int, tmp_path: Path) -> None:
    source = saved(tmp_path / "weights.pth", None, dataclasses.replace(SMALL, in_channels=channels))
    model = create_model("small", tmp_path / "weights.pth", in_chans=channels, input_size=64)
    assert torch.equal(model.stem.conv1.weight, source.stem.conv1.weight)


@LAYOUTS
@pytest.mark.usefixtures("small")
def test_weights_of_another_size_are_interpolated(layout: Layout | None, tmp_path: Path) -> None:
    source = saved(tmp_path / "weights.pth", layout, SMALL)
    model = create_model("small", tmp_path / "weights.pth", input_size=(96, 64))
    source.set_input_size((96, 64))
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(model(x), source(x))


@pytest.mark.usefixtures("small")
def test_drop_path_does_not_keep_weights_out(tmp_path: Path) -> None:
    source = saved(tmp_path / "weights.pth", "timm", SMALL)
    model = create_model("small", tmp_path / "weights.pth", input_size=64, drop_path_rate=0.3)
    assert model.stages[3].blocks["1"].drop_path.drop_prob == pytest.approx(0.3)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), source(x))


@pytest.mark.usefixtures("small_zoo")
def test_a_feature_extractor_takes_weights_with_any_classifiers(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    saved = randomised(tiny(distilled=False))
    save_model(path, saved)
    extractor = create_model("tiny", path, features_only=True, input_size=32)
    assert torch.equal(extractor.stem.conv1.weight, saved.stem.conv1.weight)


@pytest.mark.usefixtures("small_zoo")
def test_an_empty_path_is_not_taken_for_no_weights() -> None:
    with pytest.raises(InputError, match="no such file"):
        create_model("tiny", "")
