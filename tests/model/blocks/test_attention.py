from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import LayerNorm2d
from timm.models.efficientformer import Attention as TimmAttention
from timm.models.efficientformer import MetaBlock1d
from torch import Tensor

from efficientformer import Attention, Layer
from efficientformer.model.blocks.attention import (
    AttentionBlock,
    AttentionMixer,
    attend,
    merge_heads,
    normalise,
    split_heads,
)
from efficientformer.model.blocks.bias import bias_indices
from tests.strategies import randomise, relative_difference

SHAPE = Attention(heads=2, key_dim=3, value_dim=5)


def reference_attention(mixer: AttentionMixer, x: Tensor) -> Tensor:
    """Head by head, by torch's own attention."""
    qkv = F.linear(x, mixer.qkv.weight, mixer.qkv.bias)
    heads = []
    for index, part in enumerate(qkv.chunk(SHAPE.heads, dim=-1)):
        q, k, v = part.split((SHAPE.key_dim, SHAPE.key_dim, SHAPE.value_dim), dim=-1)
        bias = mixer.attention_biases[index][bias_indices(3, 2)]
        heads.append(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
    return F.linear(torch.cat(heads, -1), mixer.proj.weight, mixer.proj.bias)


def test_attention_is_torchs_attention_with_a_bias_per_head() -> None:
    mixer = AttentionMixer(7, (3, 2), SHAPE)
    randomise(mixer)
    x = torch.randn(2, 6, 7)
    assert torch.allclose(mixer(x), reference_attention(mixer, x), atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 3), (2, 4), (1, 1)])
def test_attention_is_timms(grid: tuple[int, int]) -> None:
    ours = AttentionMixer(7, grid, Attention(2, 3, 6))
    theirs = TimmAttention(7, key_dim=3, num_heads=2, attn_ratio=2, resolution=grid)
    randomise(theirs)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.endswith("idxs")})
    x = torch.randn(2, grid[0] * grid[1], 7)
    with torch.no_grad():
        assert relative_difference(ours(x), theirs(x)) <= 1e-5


def test_an_attention_block_is_timms() -> None:
    ours = AttentionBlock(Layer("attention", 6, 6, 7, 7, 3, "gelu", Attention())).eval()
    theirs = MetaBlock1d(6, mlp_ratio=3)
    theirs.train(False)
    randomise(theirs)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.endswith("idxs")})
    x = torch.randn(2, 49, 6)
    with torch.no_grad():
        wanted = theirs(x)
        assert relative_difference(ours(x), wanted) <= 1e-5
        deployed = ours.fold()(x.transpose(1, 2).unflatten(2, (7, 7)))  # on the map
        assert relative_difference(deployed.flatten(2).transpose(1, 2), wanted) <= 1e-5


def test_a_scale_may_stand_in_the_projection() -> None:
    qkv, bias = torch.randn(2, 6, SHAPE.qkv_width), torch.randn(2, 6, 6)
    scaled = qkv.unflatten(-1, (2, -1)).clone()
    scaled[..., :3] *= 0.5
    assert torch.allclose(
        attend(scaled.flatten(2), SHAPE, bias, 1.0), attend(qkv, SHAPE, bias, 0.5), atol=1e-6
    )


def test_normalise_is_timms_norm_of_maps_at_its_start() -> None:
    x = 3 + 2 * torch.randn(2, 7, 5, 4)
    assert torch.allclose(normalise(x), LayerNorm2d(7, eps=1e-5)(x), atol=1e-6)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_merging_heads_undoes_splitting_them(heads: int, width: int, rows: int, columns: int) -> None:
    x = torch.randn(2, heads * width, rows, columns)
    split = split_heads(x, heads)
    assert split.shape == (2, heads, width, rows * columns)
    assert torch.equal(split[:, -1, 0, -1], x[:, (heads - 1) * width, -1, -1])
    assert torch.equal(merge_heads(split, (rows, columns)), x)
