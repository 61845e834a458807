from __future__ import annotations

import pytest
import torch
from timm.layers import get_act_layer
from timm.models.efficientformer_v2 import ConvMlpWithNorm, EfficientFormerV2Block

from efficientformer import Layer
from efficientformer.model.blocks.ffn import FfnBlock, UnifiedFfn
from tests.model.blocks.names import from_timm
from tests.strategies import randomise, relative_difference


@pytest.mark.parametrize("size", [(6, 4), (1, 1), (3, 5)])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_the_unified_ffn_is_timms(activation: str, size: tuple[int, int]) -> None:
    ours = UnifiedFfn(4, 12, activation).eval()
    theirs = ConvMlpWithNorm(4, 12, act_layer=get_act_layer(activation), mid_conv=True).eval()
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x, gamma = torch.randn(2, 4, *size), torch.randn(4)
    with torch.no_grad():
        assert relative_difference(ours(x), theirs(x)) <= 1e-5
        wanted = x + theirs(x) * gamma[:, None, None]  # folded with its residual path
        assert relative_difference(ours.fold(gamma)(x), wanted) <= 1e-5


@pytest.mark.parametrize("expansion", [1, 3, 4])
def test_the_block_is_timms_without_attention(expansion: int) -> None:
    ours = FfnBlock(Layer("ffn", 6, 6, 5, 4, expansion, "gelu")).eval()
    theirs = EfficientFormerV2Block(6, expansion, use_attn=False).eval()
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(2, 6, 5, 4)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


def test_training_statistics_are_timms() -> None:
    ours, theirs = UnifiedFfn(4, 8, "gelu"), ConvMlpWithNorm(4, 8, mid_conv=True)
    randomise(theirs)
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(3, 4, 5, 5)
    with torch.no_grad():
        assert relative_difference(ours.train()(x), theirs.train()(x)) <= 1e-5
    after = from_timm(theirs)
    assert all(torch.allclose(tensor, after[name], atol=1e-6) for name, tensor in ours.state_dict().items())
