from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from efficientformer import Architecture, Attention, EfficientFormer, fold
from efficientformer.layers import KINDS
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.attention import normalise
from efficientformer.model.blocks.base import LayerScale
from tests.strategies import architectures, randomise, randomised, relative_difference, tiny


def images(architecture: Architecture, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, architecture.in_channels, *architecture.input_size, dtype=dtype)


@given(architectures(), st.integers(0, 100))
def test_folding_preserves_the_outputs(architecture: Architecture, seed: int) -> None:
    network = randomised(architecture, seed)
    x = images(architecture)
    with torch.no_grad():
        assert relative_difference(fold(network)(x), network(x)) <= 1e-4


@given(architectures())
def test_in_double_precision_the_outputs_are_the_same_to_rounding(architecture: Architecture) -> None:
    network = randomised(architecture).double()
    x = images(architecture, torch.float64)
    with torch.no_grad():
        assert relative_difference(fold(network)(x), network(x)) <= 1e-10


@given(architectures(), st.booleans())
def test_folding_leaves_the_source_alone(architecture: Architecture, training: bool) -> None:
    network = randomised(architecture).train(training)
    before = copy.deepcopy(network.state_dict())
    deployed = fold(network)
    with torch.no_grad():
        for buffer in (*deployed.buffers(), *deployed.parameters()):
            buffer.zero_()  # shares no memory either
    assert network.training is training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert list(before) == list(network.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@given(architectures())
def test_no_norm_or_scale_is_left_and_the_parameters_are_fewer(architecture: Architecture) -> None:
    deployed = fold(EfficientFormer(architecture))
    assert not [m for m in deployed.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, LayerScale))]
    assert sum(parameter.numel() for parameter in deployed.parameters()) < architecture.params
    assert not any(module.training for module in deployed.modules())
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    assert len(deployed) == len(architecture.layers())


@given(architectures())
def test_each_layer_folds_on_its_own(architecture: Architecture) -> None:
    for _, layer, module in randomised(architecture).double().named_modules_of_layers():
        tokens = (3, layer.height * layer.width, layer.in_width)
        map_ = (3, layer.in_width, layer.height, layer.width)
        x = torch.randn(tokens if KINDS[layer.kind].layout == "tokens" else map_, dtype=torch.float64)
        with torch.no_grad():
            assert relative_difference(module.eval().fold()(x), module(x)) <= 1e-10


def test_folding_the_untrained_start_works_too() -> None:
    network = EfficientFormer(tiny()).eval()  # LayerScale 1e-5, attention biases 0
    x = images(tiny())
    with torch.no_grad():
        assert relative_difference(fold(network)(x), network(x)) <= 1e-4


# The single melts, each against the definition


@pytest.mark.parametrize("bias", [True, False])
def test_conv_bn(bias: bool) -> None:
    conv, norm = nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5).eval()
    randomise(norm)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(melt.conv_bn(conv, norm)(x), norm(conv(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape", "along"),
    [
        (nn.Linear(3, 5), (2, 3), (5,)),
        (nn.Linear(3, 5, bias=False), (2, 3), (5,)),
        (nn.Conv2d(3, 5, 1), (2, 3, 4, 4), (5, 1, 1)),
        (nn.Conv2d(3, 5, 1, bias=False), (2, 3, 4, 4), (5, 1, 1)),
    ],
    ids=str,
)
def test_scale_outputs(module: nn.Linear | nn.Conv2d, shape: tuple[int, ...], along: tuple[int, ...]) -> None:
    factor, x = torch.randn(5), torch.randn(shape)
    scaled = melt.scale_outputs(module, factor)
    assert torch.allclose(scaled(x), module(x) * factor.view(along), atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_absorb_affine(bias: bool) -> None:
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 4, bias=bias)
    randomise(norm)
    x = torch.randn(3, 6)
    absorbed = melt.absorb_affine(norm, linear)
    assert torch.allclose(absorbed(normalise(x)), linear(norm(x)), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_mean_linear(count: int) -> None:
    linears = [nn.Linear(4, 3) for _ in range(count)]
    x = torch.randn(2, 4)
    wanted = torch.stack([linear(x) for linear in linears]).mean(0)
    assert torch.allclose(melt.mean_linear(linears)(x), wanted, atol=1e-6)


def test_scale_queries_touches_queries_only() -> None:
    shape = Attention(heads=2, key_dim=4, value_dim=3)
    qkv = nn.Linear(5, shape.qkv_width)
    scaled = melt.scale_queries(qkv, shape)
    ratio = (scaled.weight / qkv.weight)[:, 0].view(2, 11)
    assert torch.allclose(ratio, torch.tensor([0.5] * 4 + [1.0] * 7).expand(2, 11))  # 4 ** -0.5
    assert torch.allclose(scaled.bias.view(2, 11), qkv.bias.view(2, 11) * ratio)
