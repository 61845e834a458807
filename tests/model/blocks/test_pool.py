from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from timm.models.efficientformer import MetaBlock2d
from torch import nn

from efficientformer import Layer
from efficientformer.model.blocks import PoolBlock
from efficientformer.model.blocks.pool import FoldedPoolBlock, rescaled
from tests.strategies import randomise, relative_difference

LAYER = Layer("pool", 4, 4, 5, 3, 2, "gelu")


def test_a_pool_block_mixes_by_pooling_less_the_input() -> None:
    block = PoolBlock(LAYER, layer_scale_init=1.0).eval()
    nn.init.zeros_(block.ls2.gamma)  # the mixer alone
    x = torch.randn(1, 4, 5, 3)
    ones = F.conv2d(torch.ones_like(x), torch.ones(4, 1, 3, 3), padding=1, groups=4)
    mean = F.conv2d(x, torch.ones(4, 1, 3, 3), padding=1, groups=4) / ones  # of the neighbours there are
    assert torch.allclose(block(x), mean, atol=1e-6)


def test_inside_a_map_the_pool_is_scipys_mean_filter() -> None:
    block, x = PoolBlock(LAYER), torch.randn(1, 4, 7, 6)
    wanted = torch.from_numpy(uniform_filter(x.numpy(), (0, 0, 3, 3)))
    assert torch.allclose(block.pool(x)[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-6)


def test_a_pool_block_is_timms() -> None:
    ours, theirs = PoolBlock(LAYER).eval(), MetaBlock2d(4, mlp_ratio=2).eval()
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 5, 3)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


@pytest.mark.parametrize("size", [(5, 3), (1, 1), (4, 7)])
def test_on_a_rescaled_stream_the_block_computes_the_same(size: tuple[int, int]) -> None:
    block = PoolBlock(LAYER).double().eval()
    randomise(block)
    folded, scale = block.fold(), torch.rand(4, dtype=torch.float64) + 0.5
    assert isinstance(folded, FoldedPoolBlock)
    changed, leaves = rescaled(folded, scale)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        given = changed(x / scale[:, None, None]) * leaves[:, None, None]
        assert relative_difference(given, block(x)) <= 1e-12
    assert torch.allclose(leaves, scale * (1 - block.ls1.gamma))
