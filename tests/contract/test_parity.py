"""Every preset against timm's own implementation, with the same weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform as timm_transform
from timm.data import resolve_model_data_config
from timm.utils import random_seed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from efficientformer import InputError, create_model, create_transform, load_checkpoint, to_layout
from tests.conftest import picture
from tests.contract.models import (
    NAMES,
    ROUNDING,
    SMALL,
    V1,
    V2,
    Size,
    difference,
    each_name,
    images,
    label,
    network,
    own,
    same_state,
)

FULL: Size = (224, 224)
PAIRS = [
    (name, size) for name in NAMES for size in ((FULL,) if name in V1 else (FULL, SMALL, (96, 64), (64, 128)))
]
each_pair = pytest.mark.parametrize(("name", "size"), PAIRS, ids=label)
OUTPUTS = ("logits", "features", "pre_logits", "stage 0", "stage 1", "stage 2", "stage 3", "normed stage 3")


@lru_cache(maxsize=1)
def twin(name: str, size: Size) -> nn.Module:
    """timm's network of the same name, filled with our weights; its first version knows 224 pixels only."""
    options = {} if name in V1 else {"img_size": size}
    theirs = timm.create_model(name, drop_path_rate=0.0, **options)
    theirs.load_state_dict(to_layout(network(name, size=size), "timm"), strict=True)
    return theirs.eval()


@lru_cache(maxsize=2)
@torch.no_grad()
def everything(model: nn.Module, size: Size) -> dict[str, Tensor]:
    """All that both implementations give."""
    pictures = images(size, 1)
    features, maps = model.forward_intermediates(pictures)
    normed = model.forward_intermediates(pictures, [3], norm=True, intermediates_only=True)
    given = (
        model(pictures),
        features,
        model.forward_head(features, pre_logits=True),
        *maps,
        *normed,
    )
    return dict(zip(OUTPUTS, given, strict=True))


@pytest.mark.parametrize("what", OUTPUTS)
@each_pair
def test_equal(name: str, size: Size, what: str) -> None:
    given = everything(network(name, size=size), size)[what]
    wanted = everything(twin(name, size), size)[what]
    assert wanted.std() > 1e-2  # it says something
    assert difference(given, wanted) <= ROUNDING[torch.float32]


@each_pair
def test_equally_large(name: str, size: Size) -> None:
    architecture, theirs = network(name, size=size).architecture, twin(name, size)
    assert architecture.params == sum(parameter.numel() for parameter in theirs.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        theirs(images(size, 1))
    assert architecture.macs == counter.get_total_flops() / 2


@each_pair
def test_weights_of_theirs_are_ours(name: str, size: Size) -> None:
    source = network(name, size=size)
    target = own(source)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    load_checkpoint(target, twin(name, size).state_dict())
    assert same_state(target, source)


def trained(model: Any, size: Size) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    """The pair of logits of a training step, and the network's state with its gradients for its weights."""
    model.double().train().set_distilled_training(True)
    labels, teacher = model(images(size, 2).double())
    (labels.square().mean() + teacher.square().mean()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    return (labels.detach(), teacher.detach()), model.state_dict()


TRAINED = [("efficientformer_l1", FULL), *((name, SMALL) for name in V2)]


@pytest.mark.parametrize(("name", "size"), TRAINED, ids=label)
def test_trained_alike(name: str, size: Size) -> None:
    ours = own(network(name, size=size))
    wanted, their_state = trained(own(twin(name, size)), size)
    given, _ = trained(ours, size)
    assert all(difference(*pair) <= 1e-12 for pair in zip(given, wanted, strict=True))
    state = to_layout(ours, "timm")
    assert set(state) == set(their_state)
    largest = max(parameter.abs().max() for parameter in ours.parameters())
    assert largest > 1e-3
    for key, theirs in their_state.items():
        if theirs.is_floating_point():  # biases before a norm have gradients of rounding errors only
            bound = 1e-9 * max(theirs.abs().max(), largest)
            assert (state[key] - theirs).abs().max() <= bound, key


# What else vision users compare


@each_name
def test_described_alike(name: str) -> None:
    with torch.device("meta"):
        model, twin_of_it = create_model(name), timm.create_model(name)
    mine, theirs = model.pretrained_cfg, timm.models.get_pretrained_cfg(name)
    assert theirs is not None
    for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "num_classes", "license"):
        assert mine[key] == getattr(theirs, key), key
    assert mine["fixed_input_size"] is theirs.fixed_input_size
    assert model.default_cfg is mine
    assert isinstance(model.get_submodule(mine["first_conv"]), nn.Conv2d)
    assert [model.get_submodule(one) for one in mine["classifier"]] == list(model.get_classifier())
    told = [
        (
            [(i["num_chs"], i["reduction"], i["module"]) for i in one.feature_info],
            one.num_features,
            one.head_hidden_size,
            len(one.no_weight_decay()),
        )
        for one in (model, twin_of_it)
    ]
    assert told[0] == told[1]


PICTURES = {"square": (256, 256), "wide": (300, 180), "tall": (50, 90)}


def photograph(size: Size) -> Image.Image:
    return picture(1, 0, 64).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", PICTURES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@each_name
def test_pictures_prepared_alike(name: str, training: bool, shape: str) -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model(name), create_model(name)
    prepare = timm_transform(**resolve_model_data_config(theirs), is_training=training)
    image = photograph(PICTURES[shape])
    random_seed(3)
    wanted = prepare(image)
    random_seed(3)
    given = create_transform(ours, is_training=training)(image)
    assert given.shape == (3, 224, 224)
    assert torch.equal(given, wanted)


@pytest.mark.parametrize("size", [SMALL, (96, 64), (64, 128)], ids=label)
@each_name
def test_described_as_it_is(name: str, size: Size) -> None:
    with torch.device("meta"):
        built = create_model(name, num_classes=7, in_chans=1, input_size=size)
    assert built.pretrained_cfg["input_size"] == (1, *size)
    assert built.pretrained_cfg["num_classes"] == 7
    assert network(name, size=size).pretrained_cfg["input_size"] == (3, *size)  # changed to it
    assert create_transform(built)(photograph((100, 90))).shape == (1, *size)


@each_name
def test_no_pictures_of_two_channels(name: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match="2 channels"):
        create_transform(create_model(name, in_chans=2))


@pytest.mark.parametrize("size", [SMALL, (96, 64), (64, 128)], ids=label)
@each_name
def test_pictures_prepared_for_the_networks_own_size(name: str, size: Size) -> None:
    grey = Image.new("RGB", (200, 300), (124, 116, 104))  # ImageNet's mean
    given = create_transform(network(name, size=size))(grey)
    assert given.shape == (3, *size)
    assert given.dtype == torch.float32
    assert given.abs().max() < 0.01
    white = create_transform(network(name, size=size))(Image.new("RGB", (200, 300), (255, 255, 255)))
    expected = torch.tensor(
        [(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    )
    assert torch.allclose(white.mean((1, 2)), expected, atol=1e-4)
