from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import truncnorm
from torch import Tensor, nn

from efficientformer import Attention, InputError, Layer
from efficientformer.architecture import ACTIVATIONS
from efficientformer.layers import BLOCKS
from efficientformer.model.blocks import build_layer
from efficientformer.model.blocks.base import (
    ConvNorm,
    LayerModule,
    LayerScale,
    activation,
    truncated_normal,
)
from tests.strategies import randomise

REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "hardswish": F.hardswish,
    "silu": F.silu,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = torch.linspace(-4, 4, 101)
    assert torch.equal(activation(name)(x), REFERENCES[name](x))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InputError, match="unknown activation 'tanh'"):
        activation("tanh")


def test_a_layer_must_say_what_it_folds_to() -> None:
    with pytest.raises(NotImplementedError):
        LayerModule().fold()


@pytest.mark.parametrize("init", [1e-5, 0.5])
@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind != "identity"])
def test_layer_scale_starts_where_it_is_told(kind: str, init: float) -> None:
    block = build_layer(Layer(kind, 4, 4, 2, 2, 2, "gelu", Attention(2, 3, 5)), init)
    scales = [module.gamma for module in block.modules() if isinstance(module, LayerScale)]
    assert len(scales) == (1 if kind == "ffn" else 2)
    assert all(torch.equal(scale, torch.full((4,), init)) for scale in scales)


def test_layer_scale_multiplies_channels_in_both_layouts() -> None:
    map_, tokens = LayerScale(3, "map", 1.0), LayerScale(3, "tokens", 1.0)
    randomise(map_)
    tokens.load_state_dict(map_.state_dict())
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(map_(x), torch.einsum("bchw,c->bchw", x, map_.gamma))
    assert torch.equal(tokens(x.movedim(1, -1)), map_(x).movedim(1, -1))


@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "size", "expected"),
    [
        (1, 1, 1, (5, 4), (5, 4)),
        (3, 1, 4, (5, 4), (5, 4)),
        (3, 2, 4, (6, 4), (3, 2)),
        (3, 2, 1, (5, 7), (3, 4)),
    ],
)
def test_conv_norm_keeps_or_halves_the_grid_and_folds(
    kernel: int, stride: int, groups: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    module = ConvNorm(4, 8, kernel, stride, groups).eval()
    randomise(module)
    x = torch.randn(2, 4, *size)
    plain = F.conv2d(x, module.conv.weight, module.conv.bias, stride, kernel // 2, groups=groups)
    mean, variance = module.norm.running_mean, module.norm.running_var
    wanted = F.batch_norm(plain, mean, variance, module.norm.weight, module.norm.bias, eps=1e-5)
    assert wanted.shape[2:] == expected
    assert torch.allclose(module(x), wanted, atol=1e-5)
    assert torch.allclose(module.fold()(x), wanted, atol=1e-5)


def test_the_start_is_a_truncated_normal_without_biases() -> None:
    linear, conv = nn.Linear(100, 200), nn.Conv2d(100, 200, 1, bias=False)
    truncated_normal(linear, conv)
    for weight in (linear.weight.detach(), conv.weight.detach()):
        spread = truncnorm(-100, 100, scale=0.02).std()  # torch truncates at ±2, not at two deviations
        assert float(weight.std()) == pytest.approx(spread, rel=0.03)
        assert abs(float(weight.mean())) < 1e-3
    assert not linear.bias.any()
