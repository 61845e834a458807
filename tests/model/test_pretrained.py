"""Published weights, without any network: the hub's one function is replaced in every test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save
from timm.data import resolve_model_data_config
from torch import Tensor

from efficientformer import PRESETS, FeatureExtractor, InputError, create_model, create_transform, to_layout
from efficientformer.files import write_atomically
from efficientformer.model.pretrained import MEAN, STD, WEIGHTS, fetch, find_weights, pretrained_cfg
from efficientformer.presets import pooling
from tests.conftest import picture
from tests.strategies import randomised

SMALL = dataclasses.replace(pooling((4, 6, 6, 8), (1, 1, 1, 2)), num_classes=5)
Hub = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """What was asked of the hub; the answer is a file of a small network."""
    asked: Hub = []
    monkeypatch.setitem(PRESETS, "efficientformer_l1", SMALL)
    network = randomised(SMALL)
    torch.save({"model": to_layout(network, "official")}, tmp_path / "pytorch_model.bin")
    write_atomically(tmp_path / "model.safetensors", save(to_layout(network, "timm")))

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def outputs(name: str, **options: Any) -> Tensor:
    with torch.no_grad():
        return create_model(name, **options)(torch.ones(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("efficientformer_l1", ("timm/efficientformer_l1.snap_dist_in1k", "model.safetensors")),
        (
            "efficientformer_l1.snap_dist_in1k",
            ("timm/efficientformer_l1.snap_dist_in1k", "model.safetensors"),
        ),
        ("efficientformer_l1.snap_300", ("snap-research/efficientformer-l1-300", "pytorch_model.bin")),
    ],
)
def test_weights_are_fetched_where_they_are_asked_for(name: str, asked: tuple[str, str], hub: Hub) -> None:
    model = create_model(name, pretrained=True, input_size=64)
    assert hub == [asked]
    source = randomised(SMALL)
    source.set_input_size(64)
    wanted = source.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformer_l1.snap_300"])
def test_nothing_is_fetched_unasked(name: str, hub: Hub, tmp_path: Path) -> None:
    create_model(name)
    create_model(name, pretrained=False)
    create_model(name, pretrained=tmp_path / "model.safetensors")
    create_model(name, features_only=True)
    create_transform(create_model(name))
    assert hub == []


@pytest.mark.parametrize("classes", [None, 5, 3, 0])
def test_classifiers_of_another_number_are_new(classes: int | None) -> None:
    options = {} if classes is None else {"num_classes": classes}
    model = create_model("efficientformer_l1", pretrained=True, input_size=64, **options)
    source, own = randomised(SMALL).get_parameter("head.classifier.weight"), model.get_classifier()
    if classes == 0:
        assert isinstance(own, torch.nn.Identity)
    else:
        assert torch.equal(own[0].weight, source) is (classes in (None, 5))
        assert len(own[0].weight) == (classes or 5)


def test_a_preset_of_another_number_of_classes_does_not_take_them_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRESETS, "efficientformer_l1", dataclasses.replace(SMALL, num_classes=4))
    with pytest.raises(InputError, match=r"head\.(weight|bias) is \(5.*, this network needs \(4"):
        create_model("efficientformer_l1", pretrained=True)


@pytest.mark.parametrize("distilled", [True, False])
def test_one_head_gives_what_two_give(distilled: bool) -> None:
    given = outputs("efficientformer_l1", pretrained=True, input_size=64, distilled=distilled)
    assert torch.allclose(given, outputs("efficientformer_l1", pretrained=True, input_size=64), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformer_l1.snap_300"])
def test_the_first_convolution_is_adapted_as_timm_does(name: str, channels: int) -> None:
    model = create_model(name, pretrained=True, in_chans=channels)
    source = randomised(SMALL).stem.conv1.weight
    assert torch.equal(model.stem.conv1.weight, timm.models.adapt_input_conv(channels, source))
    if channels == 1:  # a grey image is worth three equal channels
        grey = torch.randn(1, 1, 32, 32)
        assert torch.allclose(
            torch.conv2d(grey, model.stem.conv1.weight),
            torch.conv2d(grey.expand(1, 3, 32, 32), source),
            atol=1e-5,
        )


def test_features_take_published_weights(hub: Hub) -> None:
    extractor = create_model("efficientformer_l1", pretrained=True, input_size=64, features_only=True)
    assert isinstance(extractor, FeatureExtractor)
    assert len(hub) == 1
    assert torch.equal(extractor.stem.conv1.weight, randomised(SMALL).stem.conv1.weight)


@pytest.mark.parametrize(
    "error", [OSError("no route\nto host"), ValueError("bad"), RuntimeError("x" * 500), KeyError("etag")]
)
def test_a_hub_out_of_reach_says_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(InputError, match=r"could not be fetched .* pretrained=PATH") as caught:
        create_model("efficientformer_l1", pretrained=True)
    message = str(caught.value)
    assert "\n" not in message
    assert "timm/efficientformer_l1.snap_dist_in1k/model.safetensors" in message
    assert type(error).__name__ in message
    assert len(message) < 400


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_is_interrupted(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repository: str, file: str) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(error):
        create_model("efficientformer_l1", pretrained=True)


def test_a_damaged_download_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as weights"):
        create_model("efficientformer_l1", pretrained=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientformer_l1.other", "known for efficientformer_l1: efficientformer_l1.snap_dist_in1k, "),
        ("resnet50", "no published weights are known for 'resnet50'; known for resnet50: none"),
        ("", "known for : none"),
    ],
)
def test_weights_that_nobody_published_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_weights(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pretrained", [True, False])
def test_an_unknown_tag_is_refused_whether_weights_are_wanted_or_not(pretrained: bool, hub: Hub) -> None:
    with pytest.raises(InputError, match="no published weights are known"):
        create_model("efficientformer_l1.snap_301", pretrained=pretrained)
    assert hub == []


def test_every_preset_has_published_weights() -> None:
    assert set(WEIGHTS) == set(PRESETS)
    for name, tags in WEIGHTS.items():
        assert find_weights(name) is next(iter(tags.values()))
        for tag, weights in tags.items():
            assert find_weights(f"{name}.{tag}") is weights
            assert 70 < weights.top1 < 90
            assert weights.source


def test_timms_own_weights_are_where_timm_says(hub: Hub) -> None:
    for name, tags in WEIGHTS.items():
        theirs = timm.get_pretrained_cfg(f"{name}.snap_dist_in1k")
        assert tags["snap_dist_in1k"].hub == theirs.hf_hub_id
        assert tags["snap_dist_in1k"].crop == theirs.crop_pct
    fetch(find_weights("efficientformerv2_s0"))
    assert hub == [("timm/efficientformerv2_s0.snap_dist_in1k", "model.safetensors")]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "efficientformer_l1"])
def test_images_are_prepared_as_timms_are(name: str) -> None:
    theirs = timm.get_pretrained_cfg(name).to_dict()
    ours = pretrained_cfg(PRESETS[name], name)
    for key in ("num_classes", "input_size", "interpolation", "crop_pct", "mean", "std", "fixed_input_size"):
        assert ours[key] == theirs[key], key
    assert ours["hf_hub_id"] == theirs["hf_hub_id"]


def test_the_configuration_names_modules_that_are_there() -> None:
    for name, distilled in (("efficientformer_l1", True), ("efficientformer_l1", False)):
        architecture = dataclasses.replace(PRESETS[name], distilled=distilled)
        config, network = pretrained_cfg(architecture, name), randomised(architecture)
        assert isinstance(network.get_submodule(config["first_conv"]), torch.nn.Conv2d)
        classifiers = (
            (config["classifier"],) if isinstance(config["classifier"], str) else config["classifier"]
        )
        own = network.get_classifier()
        own = own if isinstance(own, tuple) else (own,)
        assert [network.get_submodule(one) for one in classifiers] == list(own)


Change = Callable[[Image.Image], Tensor]


@pytest.mark.parametrize("size", [64, (64, 96), 224])
@pytest.mark.parametrize("training", [True, False])
def test_the_transform_is_of_the_networks_own_size(size: int | tuple[int, int], training: bool) -> None:
    model = create_model("efficientformer_l1", input_size=size)
    change: Change = create_transform(model, is_training=training)
    image = change(picture(0, 0, 300))
    assert tuple(image.shape) == (3, *model.architecture.input_size)
    assert image.dtype == torch.float32


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformer_l1.snap_300"])
def test_the_evaluation_transform_is_timms(name: str) -> None:
    model = create_model(name, input_size=224)
    crop = find_weights(name).crop
    theirs: Change = timm.data.create_transform(
        (3, 224, 224),
        interpolation="bicubic",
        crop_pct=crop,
        mean=timm.data.IMAGENET_DEFAULT_MEAN,
        std=timm.data.IMAGENET_DEFAULT_STD,
    )
    image = picture(1, 2, 300)
    assert torch.equal(create_transform(model)(image), theirs(image))


def test_the_transform_follows_a_change_of_size() -> None:
    model = create_model("efficientformer_l1", input_size=64)
    model.set_input_size((96, 64))
    assert create_transform(model)(picture(0, 0, 200)).shape == (3, 96, 64)


def test_options_of_the_transform_reach_timm() -> None:
    change: Change = create_transform(
        create_model("efficientformer_l1"), is_training=True, re_prob=1.0, hflip=0.0
    )
    assert "RandomErasing" in repr(change)
    assert "RandomHorizontalFlip" not in repr(change)


def test_a_network_of_one_channel_is_given_grey_pictures() -> None:
    model = create_model("efficientformerv2_s0", in_chans=1, input_size=64)
    picture = Image.new("RGB", (80, 80), (255, 0, 0))
    x = create_transform(model)(picture)
    grey = 0.299  # ITU-R 601's weight of red
    mean, std = sum(MEAN) / 3, sum(STD) / 3
    assert x.shape == (1, 64, 64)
    assert torch.allclose(x, torch.full_like(x, (grey - mean) / std), atol=1e-2)


def test_other_channels_have_no_transform() -> None:
    with pytest.raises(InputError, match="takes 4 channels"):
        create_transform(create_model("efficientformerv2_s0", in_chans=4))


def test_the_configuration_follows_the_networks_size() -> None:
    model = create_model("efficientformerv2_s0", input_size=(64, 96))
    assert resolve_model_data_config(model)["input_size"] == (3, 64, 96)
    model.set_input_size(128)
    assert resolve_model_data_config(model)["input_size"] == (3, 128, 128)
