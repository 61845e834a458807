"""Every preset by its name: listed, found, built as asked; what is misspelt is refused, never swallowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from efficientformer import PRESETS, EfficientFormer, InputError, create_model, list_models
from efficientformer.model.pretrained import WEIGHTS
from tests.contract.models import NAMES, RECTANGLE, each_name, images, network


@each_name
def test_listed(name: str) -> None:
    others = [one for one in NAMES if one != name]
    assert list_models(name) == [name]
    assert list_models(f"{name[:-1]}?") == [one for one in NAMES if one[:-1] == name[:-1]]
    assert list_models(f"*{name[-6:]}") == [one for one in NAMES if one.endswith(name[-6:])]
    assert list_models([name, "resnet*"]) == [name]
    assert list_models(exclude_filters=name) == others
    assert list_models(exclude_filters=[name, *others]) == []
    assert list_models(name.upper()) == []


@each_name
def test_listed_with_the_tags_of_its_weights(name: str) -> None:
    tags = [f"{name}.{tag}" for tag in WEIGHTS[name]]
    assert list_models(name, pretrained=True) == sorted(tags)
    assert f"{name}.snap_dist_in1k" in tags
    for tag in tags:
        with torch.device("meta"):
            model = create_model(tag)
        assert model.pretrained_cfg["tag"] == tag.partition(".")[2]
        assert model.pretrained_cfg["crop_pct"] == (0.875 if tag.endswith("snap_300") else 0.95)


@each_name
def test_built_as_its_preset(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert isinstance(model, EfficientFormer)
    assert model.architecture == PRESETS[name]
    assert (model.num_classes, model.architecture.input_size) == (1000, (224, 224))
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.num_features == model.feature_info[-1]["num_chs"]


@each_name
def test_started_as_the_authors_do(name: str) -> None:
    model = create_model(name, input_size=RECTANGLE)
    seen = set()
    for key, parameter in model.named_parameters():
        if key.endswith("gamma"):
            expected = 1e-5
        elif key.endswith("attention_biases"):
            expected = 0.0
        elif ".norm" in key:
            expected = float(key.endswith("weight"))
        else:
            continue
        seen.add(key.rpartition(".")[2])
        assert torch.equal(parameter, torch.full_like(parameter, expected)), key
    assert seen == {"gamma", "attention_biases", "weight", "bias"}
    assert 0.019 < model.head.classifier.weight.std() < 0.021
    assert not torch.equal(model.head.classifier.weight, model.head.distillation.weight)
    with torch.no_grad():
        assert torch.isfinite(model(images(RECTANGLE))).all()


@each_name
def test_built_alike_from_a_seed(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(create_model(name, input_size=RECTANGLE).state_dict())
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key, tensor in first.items() if tensor.is_floating_point() and tensor.std() > 1e-9]
    assert len(drawn) > 20
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize(
    "option", ["img_size", "drop_rate", "pretrained_cfg", "num_class", "scriptable", "act_layer", "Distilled"]
)
@each_name
def test_unknown_options_are_refused(name: str, option: str) -> None:
    for features_only in (False, True):
        with pytest.raises(TypeError, match=option):
            create_model(name, features_only=features_only, **{option: 1})


@pytest.mark.parametrize(
    "change", [str.upper, lambda name: name[:-1], lambda name: f"{name}0", lambda _: " "]
)
@each_name
def test_unknown_names_are_refused(name: str, change: Any) -> None:
    with pytest.raises(InputError, match=f"unknown model '{change(name)}'") as caught:
        create_model(change(name))
    assert "\n" not in str(caught.value)
    assert "efficientformer" in str(caught.value).partition(";")[2]  # what to say instead


@pytest.mark.parametrize("tag", ["in21k", "SNAP_DIST_IN1K", "snap_dist_in1k.x"])
@each_name
def test_unknown_tags_are_refused(name: str, tag: str) -> None:
    with pytest.raises(InputError, match=f"{name}.snap_dist_in1k"):
        create_model(f"{name}.{tag}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 0}, "in_channels must be a whole number from 1"),
        ({"in_chans": 1.0}, "in_channels must be a whole number from 1"),
        ({"distilled": 1}, "distilled is true or false"),
        ({"pretrained": "/no/such/weights.safetensors"}, "no such file"),
        ({"features_only": True, "out_indices": (0, 4)}, "counted from 0"),
    ],
    ids=["no channels", "broken channels", "distilled", "file", "indices"],
)
@each_name
def test_options_of_wrong_values_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message) as caught:
        create_model(name, **options)
    assert "\n" not in str(caught.value)


@each_name
def test_an_architecture_survives_its_document(name: str) -> None:
    architecture = network(name).architecture
    assert type(architecture).from_json(architecture.to_json()) == architecture
    with torch.device("meta"):
        rebuilt = EfficientFormer(architecture)
    assert {key: t.shape for key, t in rebuilt.state_dict().items()} == {
        key: t.shape for key, t in network(name).state_dict().items()
    }
