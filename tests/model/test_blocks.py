from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.models.efficientformer import Attention as TimmAttention
from torch import Tensor, nn

from efficientformer import Attention, InputError, Layer
from efficientformer.architecture import ACTIVATIONS
from efficientformer.layers import KINDS
from efficientformer.model.blocks import Flatten, Head, PoolBlock, Unflatten, build_layer
from efficientformer.model.blocks.attention import AttentionMixer
from efficientformer.model.blocks.base import LayerScale, activation
from efficientformer.model.blocks.bias import bias_indices
from tests.strategies import randomise

SHAPE = Attention(heads=2, key_dim=3, value_dim=5)


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


@pytest.mark.parametrize(
    ("layer", "given_shape", "expected_shape"),
    [
        (Layer("stem", 3, 8, 64, 32, activation="relu"), (2, 3, 64, 32), (2, 8, 16, 8)),
        (Layer("embed", 8, 12, 16, 8), (2, 8, 16, 8), (2, 12, 8, 4)),
        (Layer("pool", 8, 8, 6, 4, 3, "gelu"), (2, 8, 6, 4), (2, 8, 6, 4)),
        (Layer("attention", 8, 8, 3, 2, 3, "gelu", SHAPE), (2, 6, 8), (2, 6, 8)),
        (Layer("flatten", 8, 8, 3, 2), (2, 8, 3, 2), (2, 6, 8)),
        (Layer("unflatten", 8, 8, 3, 2), (2, 6, 8), (2, 8, 3, 2)),
        (Layer("head", 8, 5, 3, 2, heads=2), (2, 6, 8), (2, 5)),
    ],
    ids=lambda value: value.kind if isinstance(value, Layer) else None,
)
def test_shapes_trained_and_folded(
    layer: Layer, given_shape: tuple[int, ...], expected_shape: tuple[int, ...]
) -> None:
    module = build_layer(layer).eval()
    x = torch.randn(given_shape)
    assert module(x).shape == expected_shape
    assert module.fold()(x).shape == expected_shape
    assert module.layout == KINDS[layer.kind].layout


@pytest.mark.parametrize("kind", ["identity", "conv", ""])
def test_a_kind_without_module_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=f"kind '{kind}'"):
        build_layer(Layer(kind, 8, 8, 4, 4))


def test_a_pool_block_mixes_by_pooling_less_the_input() -> None:
    block = PoolBlock(Layer("pool", 4, 4, 5, 3, 2, "gelu"), layer_scale_init=1.0).eval()
    nn.init.zeros_(block.ls2.gamma)  # the mixer alone
    x = torch.randn(1, 4, 5, 3)
    ones = F.conv2d(torch.ones_like(x), torch.ones(4, 1, 3, 3), padding=1, groups=4)
    mean = F.conv2d(x, torch.ones(4, 1, 3, 3), padding=1, groups=4) / ones  # of the neighbours there are
    assert torch.allclose(block(x), mean, atol=1e-6)


@pytest.mark.parametrize("init", [1e-5, 0.5])
def test_layer_scale_starts_where_it_is_told(init: float) -> None:
    block = build_layer(Layer("attention", 4, 4, 2, 2, 2, "gelu", SHAPE), init)
    scales = [module.gamma for module in block.modules() if isinstance(module, LayerScale)]
    assert len(scales) == 2
    assert all(torch.equal(scale, torch.full((4,), init)) for scale in scales)


@given(st.integers(1, 5), st.integers(1, 5))
def test_bias_indices_are_row_distance_times_width_plus_column_distance(height: int, width: int) -> None:
    tokens = [(row, column) for row in range(height) for column in range(width)]
    expected = [[abs(r - s) * width + abs(c - d) for s, d in tokens] for r, c in tokens]
    assert bias_indices(height, width).tolist() == expected


@given(st.integers(1, 5), st.integers(1, 5))
def test_bias_indices_are_those_of_timm_on_squares_and_within_the_table(height: int, width: int) -> None:
    indices = bias_indices(height, width)
    assert torch.equal(indices, indices.T)
    assert indices.unique().tolist() == list(range(height * width))
    if height == width:
        assert torch.equal(indices, TimmAttention(dim=8, resolution=height).attention_bias_idxs)


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


@pytest.mark.parametrize("heads", [1, 2])
def test_the_head_gives_a_pair_in_training_and_its_mean_in_evaluation(heads: int) -> None:
    head = Head(Layer("head", 8, 5, 3, 2, heads=heads))
    randomise(head)
    head.distilled_training = True
    x = torch.randn(2, 6, 8)
    trained, evaluated = head.train()(x), head.eval()(x)
    if heads == 1:
        assert torch.equal(trained, evaluated)
    else:
        assert isinstance(trained, tuple)
        assert not torch.allclose(*trained)
        assert torch.allclose(torch.stack(trained).mean(0), evaluated, atol=1e-6)


@given(st.integers(1, 4), st.integers(1, 4))
def test_unflatten_undoes_flatten(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    tokens = Flatten()(x)
    assert torch.equal(tokens[:, -1], x[:, :, -1, -1])
    assert torch.equal(Unflatten(Layer("unflatten", 3, 3, height, width))(tokens), x)


def test_building_follows_torchs_generator() -> None:
    layer = Layer("pool", 4, 4, 2, 2, 2, "gelu")
    first, second, other = (_built(layer, seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def _built(layer: Layer, seed: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in build_layer(layer).parameters()])


def test_an_attention_layer_without_its_shape_has_no_counts() -> None:
    layer = Layer("attention", 4, 4, 2, 2, 2, "gelu", SHAPE)
    assert layer.params > 0
    with pytest.raises(InputError, match="needs its `attention` shape"):
        _ = dataclasses.replace(layer, attention=None).params
