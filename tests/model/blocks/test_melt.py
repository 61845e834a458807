"""The single melts, each against the definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from efficientformer import Attention
from efficientformer.model.blocks import melt
from tests.strategies import randomise

BIAS = pytest.mark.parametrize("bias", [True, False])


@BIAS
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
    before = module.weight.detach().clone()
    scaled = melt.scale_outputs(module, factor)
    assert torch.allclose(scaled(x), module(x) * factor.view(along), atol=1e-6)
    assert torch.equal(module.weight, before)  # a copy is scaled


@BIAS
def test_scale_inputs(bias: bool) -> None:
    conv, factor, x = nn.Conv2d(3, 5, 3, bias=bias), torch.randn(3), torch.randn(2, 3, 6, 6)
    scaled = melt.scale_inputs(conv, factor)
    assert torch.allclose(scaled(x), conv(x * factor[:, None, None]), atol=1e-6)


@BIAS
def test_as_convolution(bias: bool) -> None:
    linear, x = nn.Linear(3, 5, bias=bias), torch.randn(2, 3, 6, 4)
    conv = melt.as_convolution(linear)
    assert torch.allclose(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1), atol=1e-6)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (3, 5, (1, 1))
    with torch.no_grad():
        conv.weight.zero_()
    assert linear.weight.any()  # shares no memory


@BIAS
def test_absorb_affine(bias: bool) -> None:
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 4, bias=bias)
    randomise(norm)
    x = torch.randn(3, 6)
    absorbed = melt.absorb_affine(norm, linear)
    assert torch.allclose(absorbed(nn.functional.layer_norm(x, (6,))), linear(norm(x)), atol=1e-5)


@BIAS
def test_absorb_batch_norm(bias: bool) -> None:
    norm, linear = nn.BatchNorm2d(6).eval(), nn.Linear(6, 4, bias=bias)
    randomise(norm)
    x = torch.randn(3, 6, 2, 5)
    absorbed = melt.absorb_batch_norm(norm, linear)
    assert torch.allclose(absorbed(x.mean((2, 3))), linear(norm(x).mean((2, 3))), atol=1e-5)


def test_a_batch_norm_without_statistics_cannot_be_absorbed() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        melt.absorb_batch_norm(nn.BatchNorm2d(6, track_running_stats=False), nn.Linear(6, 4))


@pytest.mark.parametrize("count", [1, 2, 3])
@BIAS
def test_mean_linear(count: int, bias: bool) -> None:
    linears = [nn.Linear(4, 3, bias=bias) for _ in range(count)]
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


@pytest.mark.parametrize("widths", [(3,), (2, 5), (4, 4, 8)])
@BIAS
def test_join_outputs(widths: tuple[int, ...], bias: bool) -> None:
    convolutions = [nn.Conv2d(3, width, 1, bias=bias) for width in widths]
    x = torch.randn(2, 3, 4, 5)
    joined = melt.join_outputs(convolutions)
    wanted = torch.cat([conv(x) for conv in convolutions], dim=1)
    assert torch.allclose(joined(x), wanted, atol=1e-6)
    assert joined.out_channels == sum(widths)


@given(st.sampled_from((1, 3, 5)), st.sampled_from((1, 2)), st.floats(-2, 2))
def test_add_centre(kernel: int, stride: int, value: float) -> None:
    conv = nn.Conv2d(4, 4, kernel, stride, kernel // 2, groups=4)
    x = torch.randn(2, 4, 6, 8)
    wanted = conv(x) + value * x[:, :, ::stride, ::stride]
    assert torch.allclose(melt.add_centre(conv, value)(x), wanted, atol=1e-5)


@BIAS
def test_without_bias(bias: bool) -> None:
    conv, x = nn.Conv2d(3, 5, 3, bias=bias), torch.randn(1, 3, 4, 4)
    assert torch.equal(melt.without_bias(conv)(x), F.conv2d(x, conv.weight))
    assert (conv.bias is not None) is bias  # a copy is changed
    wanted = conv.bias if conv.bias is not None else torch.zeros(5)
    assert torch.equal(melt.bias_of(conv), wanted)
