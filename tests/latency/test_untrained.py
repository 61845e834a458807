from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from efficientformer import Layer, fold
from efficientformer.latency.untrained import deployed_layer, input_shape, randomise_vectors, untrained
from efficientformer.model.blocks import build_layer
from efficientformer.model.blocks.base import LayerScale
from tests.strategies import randomised, tiny

LAYERS = tuple({layer.kind: layer for layer in tiny().layers()}.values())
by_kind = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.kind)


@by_kind
def test_a_layer_is_timed_in_the_shape_it_takes_in_the_network(layer: Layer) -> None:
    shapes: dict[Layer, tuple[int, ...]] = {}
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        for one, part in zip(tiny().layers(), fold(randomised(tiny())), strict=True):
            shapes[one], x = tuple(x.shape), part(x)
    assert input_shape(layer) == shapes[layer]


@by_kind
def test_a_timed_layer_is_folded_and_the_same_each_time(layer: Layer) -> None:
    generator = torch.get_rng_state()
    first, second = deployed_layer(layer), deployed_layer(layer)
    assert torch.equal(torch.get_rng_state(), generator)  # torch's own generator is left alone
    assert not [part for part in first.modules() if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm))]
    x = torch.randn(input_shape(layer))
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


@by_kind
def test_no_norm_or_scale_can_be_left_out_by_a_converter(layer: Layer) -> None:
    built = build_layer(layer)
    randomise_vectors(built)
    assert scale_free(built)
    assert all(within(*one) for one in scale_free(built))


def scale_free(network: nn.Module) -> list[tuple[Tensor, bool]]:
    """Vectors of norms and LayerScales, and whether one is a LayerScale's."""
    kinds = (nn.BatchNorm2d, nn.LayerNorm, LayerScale)
    parts = [part for part in network.modules() if isinstance(part, kinds)]
    return [
        (tensor, isinstance(part, LayerScale))
        for part in parts
        for tensor in (*part.parameters(), *part.buffers())
        if tensor.ndim == 1
    ]


def within(vector: Tensor, is_scale: bool) -> bool:
    low, high = (0.1, 0.3) if is_scale else (0.5, 1.0)
    return bool(((vector >= low) & (vector < high)).all())


def test_an_untrained_network_is_the_same_each_time_and_hides_nothing() -> None:
    generator = torch.get_rng_state()
    first, second = untrained(tiny()), untrained(tiny())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(within(*one) for one in scale_free(first))
    assert not first.training
