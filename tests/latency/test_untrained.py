from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from efficientformer import Layer
from efficientformer.latency.untrained import deployed_layer, input_shape, randomise_norms, untrained
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
        for _, one, part in randomised(tiny()).named_modules_of_layers():
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
    randomise_norms(built)
    scales = [
        tensor
        for name, tensor in itertools.chain(built.named_parameters(), built.named_buffers())
        if any(part in name for part in ("norm", "ls1", "ls2")) and tensor.is_floating_point()
    ]
    assert all(((tensor >= 0.5) & (tensor < 1)).all() for tensor in scales)
    assert bool(scales) is (layer.kind not in ("flatten", "unflatten"))


def scale_free(network: nn.Module) -> list[Tensor]:
    """Vectors of norms and LayerScales."""
    kinds = (nn.BatchNorm2d, nn.LayerNorm, LayerScale)
    parts = [part for part in network.modules() if isinstance(part, kinds)]
    return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers()) if tensor.ndim == 1]


def test_an_untrained_network_is_the_same_each_time_and_hides_nothing() -> None:
    generator = torch.get_rng_state()
    first, second = untrained(tiny()), untrained(tiny())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(((vector >= 0.5) & (vector < 1)).all() for vector in scale_free(first))
    assert not first.training
