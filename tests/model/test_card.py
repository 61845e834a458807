from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from efficientformer import PRESETS, Architecture, Block, InputError, Stage, list_models, model_card
from efficientformer.model.card import inference_bytes, training_bytes
from efficientformer.model.network import EfficientFormer
from tests.strategies import architectures, tiny


@pytest.mark.parametrize("name", list_models())
def test_a_card_counts_what_the_network_has(name: str) -> None:
    card, architecture = model_card(name), PRESETS[name]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = EfficientFormer(architecture).eval()
        network(torch.empty(1, 3, 224, 224))
    counts = {str(op): flops // 2 for op, flops in counter.get_flop_counts()["Global"].items()}
    assert card.params == sum(parameter.numel() for parameter in network.parameters())
    assert card.macs.convolution == counts["aten.convolution"]
    assert card.macs.linear == counts["aten.addmm"]
    assert card.macs.attention == counts["aten.bmm"]
    assert card.published
    assert all(70 < weights.top1 < 85 and weights.source for weights in card.published.values())


@pytest.mark.parametrize(
    ("name", "gmacs"),  # the reference's three, and EfficientFormerV2's as its code counts them
    [("efficientformer_l1", 1.2913), ("efficientformer_l3", 3.9066), ("efficientformer_l7", 10.1193)],
)
def test_macs_are_the_published_ones(name: str, gmacs: float) -> None:
    assert round(model_card(name).macs.total / 1e9, 4) == gmacs


def test_a_card_is_json() -> None:
    document = model_card("efficientformerv2_s0").to_json()
    assert document["model"] == "efficientformerv2_s0"
    assert document["macs"] == sum(document["macs_by_operator"].values())
    assert document["published"]["snap_dist_in1k"]["hub"].startswith("timm/")


def one_pool_block(width: int, expansion: int, side: int) -> Architecture:
    stages = (Stage(width, (Block("pool", expansion),)), *(Stage(2, ()) for _ in range(3)))
    return dataclasses.replace(tiny(), stages=stages, input_size=(side, side))


@pytest.mark.parametrize(("width", "expansion", "side"), [(8, 4, 64), (16, 2, 32), (6, 6, 96)])
def test_inference_memory_is_the_widest_moment(width: int, expansion: int, side: int) -> None:
    # the image, the stream before and behind the mixer, the hidden map before and behind its activation
    grid = (side // 4) ** 2
    wanted = 3 * side**2 + grid * (2 * width + 2 * expansion * width)
    assert inference_bytes(one_pool_block(width, expansion, side)) == 4 * wanted


@given(architectures())
@settings(max_examples=8)
def test_memory_grows_with_the_image(architecture: Architecture) -> None:
    size = (architecture.input_size[0] * 2, architecture.input_size[1] * 2)
    larger = dataclasses.replace(architecture, input_size=size)
    assert 0 < inference_bytes(architecture) < inference_bytes(larger)
    assert inference_bytes(architecture) < training_bytes(larger)


def test_training_keeps_what_its_gradient_needs() -> None:
    wider, narrower = (training_bytes(one_pool_block(8, expansion, 64)) for expansion in (4, 2))
    hidden = 4 * (64 // 4) ** 2 * 8 * 2  # bytes by which the hidden maps differ
    norms = 4 * 2 * 2 * 8  # and the batch norm's mean and deviation
    assert wider - narrower == 3 * hidden + norms  # before the norm, before and behind the activation


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet50", (224, 224), "unknown model 'resnet50'"),
        ("efficientformer_l1", (100, 224), "pad to 128×224"),
    ],
)
def test_what_has_no_card(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_card(name, size)
