from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.efficientformer_v2 import Attention2dDownsample, Downsample, LocalGlobalQuery
from torch import nn

from efficientformer import Attention, Layer
from efficientformer.model.blocks.attention import merge_heads, split_heads
from efficientformer.model.blocks.bias import bias_indices
from efficientformer.model.blocks.embed_attention import AttentionDownsample, EmbedAttention, LocalQuery
from tests.model.blocks.names import from_timm
from tests.strategies import randomise, relative_difference

SIZES = pytest.mark.parametrize("size", [(4, 6), (2, 2), (8, 2), (6, 6)])


def layer(size: tuple[int, int], shape: Attention | None = None) -> Layer:
    return Layer("embed_attention", 6, 10, *size, activation="gelu", attention=shape or Attention(2, 3, 6))


@SIZES
def test_the_query_is_timms(size: tuple[int, int]) -> None:
    ours, theirs = LocalQuery(6, 8).eval(), LocalGlobalQuery(6, 8).eval()
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        wanted = theirs(x)
        assert relative_difference(ours(x), wanted) <= 1e-5
        assert relative_difference(ours.fold(0.25)(x), 0.25 * wanted) <= 1e-5


@SIZES
def test_the_attention_is_timms(size: tuple[int, int]) -> None:
    ours = AttentionDownsample(layer(size)).eval()
    theirs = Attention2dDownsample(6, key_dim=3, num_heads=2, attn_ratio=2, resolution=size, out_dim=10)
    theirs.eval()  # returns None
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    assert torch.equal(ours.attention_bias_idxs, theirs.attention_bias_idxs)
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        assert relative_difference(ours(x), theirs(x)) <= 1e-5


@SIZES
def test_the_embedding_is_timms(size: tuple[int, int]) -> None:
    ours = EmbedAttention(layer(size, Attention(8, 16, 64))).eval()  # the only shape timm's has
    theirs = Downsample(6, 10, resolution=size, use_attn=True, norm_layer=nn.BatchNorm2d)
    theirs.train(False)
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(2, 6, *size)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


@torch.no_grad()
def test_the_attention_is_torchs_with_queries_on_every_second_position() -> None:
    mixer = AttentionDownsample(layer((4, 6))).eval()
    randomise(mixer)
    x = torch.randn(2, 6, 4, 6)
    q, k, v = (split_heads(part(x), 2).transpose(-2, -1) for part in (mixer.q, mixer.k, mixer.v))
    rows = [row * 6 + column for row in (0, 2) for column in (0, 2, 4)]
    bias = mixer.attention_biases[:, bias_indices(4, 6)[rows]]
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(-2, -1)
    wanted = mixer.proj(F.gelu(merge_heads(attended, (2, 3)) + mixer.v_local(mixer.v(x))))
    assert relative_difference(mixer(x), wanted) <= 1e-5
