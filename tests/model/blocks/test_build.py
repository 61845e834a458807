from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from efficientformer import Attention, InputError, Layer
from efficientformer.layers import KINDS
from efficientformer.model.blocks import MODULES, build_layer
from efficientformer.model.blocks.base import LayerModule
from tests.strategies import randomise, relative_difference

SHAPE = Attention(heads=2, key_dim=3, value_dim=5)
Shape = tuple[int, ...]

CASES: list[tuple[Layer, Shape, Shape]] = [
    (Layer("stem", 3, 8, 64, 32, activation="relu"), (2, 3, 64, 32), (2, 8, 16, 8)),
    (Layer("stem_patch", 3, 8, 64, 32, activation="relu"), (2, 3, 64, 32), (2, 8, 16, 8)),
    (Layer("embed", 8, 12, 16, 8), (2, 8, 16, 8), (2, 12, 8, 4)),
    (Layer("embed_attention", 8, 12, 6, 4, 0, "gelu", SHAPE), (2, 8, 6, 4), (2, 12, 3, 2)),
    (Layer("pool", 8, 8, 6, 4, 3, "gelu"), (2, 8, 6, 4), (2, 8, 6, 4)),
    (Layer("attention", 8, 8, 3, 2, 3, "gelu", SHAPE), (2, 6, 8), (2, 6, 8)),
    (Layer("ffn", 8, 8, 6, 4, 3, "silu"), (2, 8, 6, 4), (2, 8, 6, 4)),
    (Layer("attention2d", 8, 8, 3, 2, 3, "gelu", SHAPE), (2, 8, 3, 2), (2, 8, 3, 2)),
    (Layer("attention2d_strided", 8, 8, 6, 4, 3, "relu", SHAPE), (2, 8, 6, 4), (2, 8, 6, 4)),
    (Layer("head", 8, 5, 3, 2, heads=2), (2, 6, 8), (2, 5)),
    (Layer("head", 8, 5, 3, 2, heads=1), (2, 6, 8), (2, 5)),
    (Layer("head", 8, 0, 3, 2, heads=2), (2, 6, 8), (2, 8)),
    (Layer("head2d", 8, 5, 3, 2, heads=2), (2, 8, 3, 2), (2, 5)),
    (Layer("head2d", 8, 0, 3, 2, heads=1), (2, 8, 3, 2), (2, 8)),
]

every_kind = pytest.mark.parametrize(
    ("layer", "given_shape", "expected_shape"), CASES, ids=lambda v: v.kind if isinstance(v, Layer) else ""
)


def test_every_kind_but_the_identity_is_among_the_cases() -> None:
    assert {layer.kind for layer, *_ in CASES} == set(MODULES) == set(KINDS) - {"identity"}


def on_map(layer: Layer, x: Tensor) -> Tensor:
    """Every deployed layer takes a map."""
    return x if x.ndim == 4 else x.transpose(1, 2).unflatten(2, (layer.height, layer.width))


@every_kind
def test_shapes_trained_and_folded(layer: Layer, given_shape: Shape, expected_shape: Shape) -> None:
    module = build_layer(layer).eval()
    x = torch.randn(given_shape)
    assert module(x).shape == expected_shape
    deployed = module.fold()(on_map(layer, x))
    assert deployed.shape == (on_map(layer, x).shape if layer.kind == "attention" else expected_shape)


@every_kind
def test_the_layout_is_the_declared_one(layer: Layer, given_shape: Shape, expected_shape: Shape) -> None:
    module = build_layer(layer)
    assert isinstance(module, LayerModule)
    assert module.layout == KINDS[layer.kind].layout == ("map" if len(given_shape) == 4 else "tokens")


@every_kind
def test_folding_changes_nothing_but_the_form(
    layer: Layer, given_shape: Shape, expected_shape: Shape
) -> None:
    module = build_layer(layer).double().eval()
    randomise(module)
    x = torch.randn(given_shape, dtype=torch.float64)
    with torch.no_grad():
        wanted = module(x) if layer.kind != "attention" else on_map(layer, module(x))
        assert relative_difference(module.fold()(on_map(layer, x)), wanted) <= 1e-12


@every_kind
def test_parameters_are_as_many_as_are_counted(
    layer: Layer, given_shape: Shape, expected_shape: Shape
) -> None:
    if layer.out_width:  # without classes there are no classifiers to count
        assert sum(parameter.numel() for parameter in build_layer(layer).parameters()) == layer.params


@every_kind
def test_every_parameter_gets_a_gradient(layer: Layer, given_shape: Shape, expected_shape: Shape) -> None:
    module = build_layer(layer).train()
    randomise(module)
    x = torch.randn(given_shape, requires_grad=True)
    (module(x) * torch.randn(expected_shape)).sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in module.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", ["identity", "conv", ""])
def test_a_kind_without_module_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=f"kind '{kind}'"):
        build_layer(Layer(kind, 8, 8, 4, 4))


def built(layer: Layer, seed: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in build_layer(layer).parameters()])


@every_kind
def test_building_follows_torchs_generator(layer: Layer, given_shape: Shape, expected_shape: Shape) -> None:
    if layer.params and layer.out_width:
        first, second, other = (built(layer, seed) for seed in (1, 1, 2))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["attention", "attention2d", "attention2d_strided", "embed_attention"])
def test_a_layer_that_attends_has_no_counts_without_its_shape(kind: str) -> None:
    layer = Layer(kind, 4, 4, 2, 2, 2, "gelu", SHAPE)
    assert layer.params > 0
    assert layer.macs > 0
    bare = dataclasses.replace(layer, attention=None)
    for count in ("params", "macs"):
        with pytest.raises(InputError, match="needs its `attention` shape"):
            getattr(bare, count)
