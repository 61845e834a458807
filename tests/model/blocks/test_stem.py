from __future__ import annotations

from functools import partial

import pytest
import torch
from timm.layers import PatchEmbed
from timm.models import efficientformer as v1
from timm.models import efficientformer_v2 as v2
from torch import nn

from efficientformer import Layer
from efficientformer.model.blocks import Embed, PatchStem, Stem
from tests.model.blocks.names import from_timm
from tests.strategies import randomise, relative_difference

batch_norm = partial(nn.BatchNorm2d, eps=1e-5)


@pytest.mark.parametrize("side", [(64, 32), (33, 47)])
@pytest.mark.parametrize(
    ("activation", "theirs"),
    [
        ("relu", v1.Stem4(3, 8)),
        ("gelu", v2.Stem4(3, 8, act_layer=nn.GELU, norm_layer=batch_norm)),
    ],
    ids=["v1", "v2"],
)
def test_the_stem_is_timms(activation: str, theirs: nn.Module, side: tuple[int, int]) -> None:
    ours = Stem(Layer("stem", 3, 8, *side, activation=activation)).eval()
    randomise(theirs.eval())
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(2, 3, *side)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


def test_the_patch_stem_is_timms_patch_embedding_with_norm_and_activation() -> None:
    ours = PatchStem(Layer("stem_patch", 3, 8, 64, 32, activation="relu")).eval()
    theirs = nn.Sequential(PatchEmbed((64, 32), 4, 3, 8, flatten=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    randomise(theirs)
    ours.conv.load_state_dict(theirs[0].proj.state_dict())  # ty: ignore[unresolved-attribute]
    ours.norm.load_state_dict(theirs[1].state_dict())
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


@pytest.mark.parametrize("side", [(8, 6), (7, 5)])
@pytest.mark.parametrize(
    "theirs", [v1.Downsample(4, 6), v2.Downsample(4, 6, norm_layer=batch_norm)], ids=["v1", "v2"]
)
def test_the_embedding_is_timms(theirs: nn.Module, side: tuple[int, int]) -> None:
    ours = Embed(Layer("embed", 4, 6, *side)).eval()
    randomise(theirs.eval())
    ours.load_state_dict(from_timm(theirs))
    x = torch.randn(2, 4, *side)
    with torch.no_grad():
        for form in (ours, ours.fold()):
            assert relative_difference(form(x), theirs(x)) <= 1e-5


def test_the_convolutions_start_as_torchs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        wanted = nn.Conv2d(3, 4, 3, 2, 1)
        torch.manual_seed(3)
        given = Stem(Layer("stem", 3, 8, 32, 32, activation="relu")).conv1
    assert torch.equal(given.weight, wanted.weight)
    assert torch.equal(given.bias, wanted.bias)
