from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from efficientformer import Architecture, Block, EfficientFormer, FeatureExtractor, InputError, Stage, fold
from efficientformer.layers import KINDS
from efficientformer.model.blocks.base import LayerScale
from efficientformer.model.blocks.layout import as_map, as_tokens
from efficientformer.model.blocks.pool import RescaledPool, WeightedPool
from efficientformer.presets import Four, pooling
from tests.strategies import architectures, randomised, relative_difference, tiny


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
        grid = layer.height, layer.width
        x = torch.randn(3, layer.in_width, *grid, dtype=torch.float64)
        with torch.no_grad():
            wanted = module.eval()(as_tokens(x) if KINDS[layer.kind].layout == "tokens" else x)
            wanted = as_map(wanted, grid) if layer.kind == "attention" else wanted
            assert relative_difference(module.fold()(x), wanted) <= 1e-10


def test_folding_the_untrained_start_works_too() -> None:
    network = EfficientFormer(tiny()).eval()  # LayerScale 1e-5, attention biases 0
    x = images(tiny())
    with torch.no_grad():
        assert relative_difference(fold(network)(x), network(x)) <= 1e-4


@given(architectures(), st.sampled_from(("avg", "")), st.sampled_from((0, 3)))
def test_heads_without_pool_or_classes_fold_too(architecture: Architecture, pool: str, classes: int) -> None:
    network = randomised(dataclasses.replace(architecture, global_pool=pool, num_classes=classes)).double()
    x = images(architecture, torch.float64)
    with torch.no_grad():
        assert relative_difference(fold(network)(x), network(x)) <= 1e-10


# The rescaled stream of pooling blocks


def pools(deployed: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in deployed.modules() if isinstance(module, (WeightedPool, RescaledPool))]


@given(architectures(kinds=("pool", "ffn", "attention")))
def test_rescaling_or_not_the_outputs_are_the_same(architecture: Architecture) -> None:
    network, x = randomised(architecture).double(), images(architecture, torch.float64)
    plain, rescaled = fold(network, rescale=False), fold(network)
    assert RescaledPool not in pools(plain)
    assert len(plain) == len(rescaled)
    with torch.no_grad():
        assert relative_difference(rescaled(x), plain(x)) <= 1e-10


@pytest.mark.parametrize(
    ("depths", "rescaled"), [((1, 1, 1, 2), 4), ((2, 0, 3, 2), 6), ((2, 2, 2, 3), 8), ((0, 0, 0, 1), 0)]
)
def test_every_run_beside_a_convolution_is_rescaled(depths: Four, rescaled: int) -> None:
    architecture = dataclasses.replace(pooling((4, 6, 6, 8), depths), input_size=(64, 64))
    assert pools(fold(randomised(architecture))) == [RescaledPool] * rescaled


def test_a_run_between_the_stem_and_a_block_that_attends_stays_plain() -> None:
    kinds = ("pool", "attention", "pool")
    stages = (Stage(4, tuple(Block(kind) for kind in kinds)), *(Stage(4, ()) for _ in range(3)))
    network = randomised(Architecture(stages, input_size=(32, 32), num_classes=2))
    assert pools(fold(network)) == [WeightedPool, RescaledPool]  # the second has an embedding behind it


@pytest.mark.parametrize("gamma", [1.0, 1 - 1e-15, 1e15, -1e15, float("nan")])
def test_layer_scales_that_leave_nothing_to_divide_by_are_left_alone(gamma: float) -> None:
    architecture = dataclasses.replace(
        pooling((4, 6, 6, 8), (2, 1, 1, 2)), input_size=(32, 32), num_classes=2
    )
    network = randomised(architecture).double()
    with torch.no_grad():
        network.get_parameter("stages.0.blocks.0.ls1.gamma")[0] = gamma
    deployed, x = fold(network), images(architecture, torch.float64)
    assert pools(deployed) == [WeightedPool] * 2 + [RescaledPool] * 3
    with torch.no_grad():
        given, wanted = deployed(x), network(x)
    assert torch.allclose(given, wanted, rtol=1e-8, equal_nan=True)


@pytest.mark.parametrize("gamma", [1e-5, 0.5, 0.8, -3.0, 8.0])
def test_layer_scales_of_any_common_size_are_exact(gamma: float) -> None:
    architecture = dataclasses.replace(
        pooling((4, 6, 6, 8), (3, 2, 3, 3)), input_size=(64, 64), num_classes=2
    )
    network = randomised(architecture)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("ls1.gamma"):
                parameter.fill_(gamma)
        x = images(architecture)
        assert RescaledPool in pools(fold(network))
        assert relative_difference(fold(network)(x), network(x)) <= 1e-4


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float16, WeightedPool),
        (torch.bfloat16, RescaledPool),
        (torch.float32, RescaledPool),
        (torch.float64, RescaledPool),
    ],
)
def test_number_types_of_small_range_are_not_rescaled(dtype: torch.dtype, kind: type[nn.Module]) -> None:
    architecture = dataclasses.replace(pooling((4, 6, 6, 8), (1, 1, 1, 2)), input_size=(32, 32))
    deployed = fold(randomised(architecture).to(dtype))
    assert set(pools(deployed)) == {kind}
    assert {parameter.dtype for parameter in deployed.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_melted_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    network = randomised(tiny()).to(dtype)
    given, wanted = (
        fold(network, rescale=False),
        fold(copy.deepcopy(network).float(), rescale=False).to(dtype),
    )
    pairs = zip(given.state_dict().values(), wanted.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_feature_extractor_is_no_whole_network() -> None:
    with pytest.raises(InputError, match=r"whole network is needed.*FeatureExtractor"):
        fold(FeatureExtractor(randomised(tiny())))  # ty: ignore[invalid-argument-type]
