from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from timm.layers import get_act_layer
from timm.models.efficientformer_v2 import Attention2d as TimmAttention2d
from timm.models.efficientformer_v2 import EfficientFormerV2Block
from torch import Tensor

from efficientformer import Attention, Layer
from efficientformer.model.blocks.attention import merge_heads, split_heads
from efficientformer.model.blocks.attention2d import Attention2d, Attention2dBlock
from efficientformer.model.blocks.bias import bias_indices
from tests.model.blocks.names import from_timm
from tests.strategies import randomise, relative_difference

PLAIN = Layer("attention2d", 6, 6, 4, 6, 2, "gelu", Attention(heads=2, key_dim=3, value_dim=6))
STRIDED = dataclasses.replace(PLAIN, kind="attention2d_strided")


@pytest.mark.parametrize("layer", [PLAIN, STRIDED], ids=lambda layer: layer.kind)
@pytest.mark.parametrize("size", [(4, 6), (2, 2), (6, 4), (8, 2)])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_attention_on_the_map_is_timms(layer: Layer, size: tuple[int, int], activation: str) -> None:
    layer = dataclasses.replace(layer, height=size[0], width=size[1], activation=activation)
    ours = Attention2d(layer).eval()
    theirs = TimmAttention2d(
        6,
        key_dim=3,
        num_heads=2,
        attn_ratio=2,
        resolution=size,
        act_layer=get_act_layer(activation),
        stride=2 if layer.kind == STRIDED.kind else None,
    )
    theirs.eval()  # returns None
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x, gamma = torch.randn(2, 6, *size), torch.randn(6)
    with torch.no_grad():
        wanted = theirs(x)
        assert relative_difference(ours(x), wanted) <= 1e-5
        assert relative_difference(ours.fold(gamma)(x), wanted * gamma[:, None, None]) <= 1e-5


@pytest.mark.parametrize("layer", [PLAIN, STRIDED], ids=lambda layer: layer.kind)
def test_the_block_is_timms(layer: Layer) -> None:
    layer = dataclasses.replace(layer, attention=Attention(8, 32, 128))  # the only shape timm's block has
    ours = Attention2dBlock(layer).eval()
    stride = 2 if layer.kind == STRIDED.kind else None
    theirs = EfficientFormerV2Block(6, 2, resolution=(4, 6), stride=stride)
    theirs.train(False)
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(2, 6, 4, 6)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


def set_talking_heads(mixer: Attention2d, weight: Tensor) -> None:
    for head in (mixer.talking_head1, mixer.talking_head2):
        head.weight.copy_(weight[:, :, None, None])
        head.bias.zero_()


@torch.no_grad()
def test_without_talk_and_neighbours_it_is_torchs_attention() -> None:
    mixer = Attention2d(PLAIN).eval()
    randomise(mixer)
    set_talking_heads(mixer, torch.eye(2))
    mixer.v_local.norm.weight.zero_()
    mixer.v_local.norm.bias.zero_()
    x = torch.randn(2, 6, 4, 6)
    q, k, v = (split_heads(part(x), 2).transpose(-2, -1) for part in (mixer.q, mixer.k, mixer.v))
    bias = mixer.attention_biases[:, bias_indices(4, 6)]
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(-2, -1)
    wanted = mixer.proj(F.gelu(merge_heads(attended, (4, 6))))
    assert relative_difference(mixer(x), wanted) <= 1e-5


@torch.no_grad()
def test_talking_heads_that_swap_twice_change_the_biases_alone() -> None:
    mixer = Attention2d(PLAIN).eval()
    randomise(mixer)
    x, swap = torch.randn(2, 6, 4, 6), torch.eye(2).flip(0)
    set_talking_heads(mixer, torch.eye(2))
    plain = mixer(x)
    set_talking_heads(mixer, swap)  # logits swapped, weights swapped back
    assert relative_difference(mixer(x), plain) <= 1e-5


@torch.no_grad()
def test_a_strided_block_attends_at_half_the_resolution() -> None:
    mixer = Attention2d(STRIDED).eval()
    assert mixer.grid == (2, 3)
    assert mixer.attention_biases.shape == (2, 6)
    seen: list[tuple[int, ...]] = []
    mixer.q.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[2:])))
    assert mixer(torch.randn(1, 6, 4, 6)).shape == (1, 6, 4, 6)
    assert seen == [(2, 3)]
