from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from efficientformer import Architecture, EfficientFormer, InputError, pack
from efficientformer.architecture import ACTIVATIONS
from efficientformer.model import packed
from efficientformer.model.packed import PackedConv, PackedResidual
from tests.strategies import architectures, randomised, relative_difference, tiny


@given(architectures(), st.integers(1, 3))
def test_packing_preserves_the_outputs(architecture: Architecture, batch: int) -> None:
    network = randomised(architecture)
    x = torch.randn(batch, architecture.in_channels, *architecture.input_size)
    with torch.no_grad():
        assert relative_difference(pack(network)(x), network(x)) <= 1e-4


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_fused(name: str) -> None:
    network = randomised(dataclasses.replace(tiny(), activation=name, stem_activation=name))
    fast = pack(network)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_difference(fast(x), network(x)) <= 1e-4
    fused = (nn.GELU, nn.ReLU, nn.SiLU, nn.Hardswish, nn.Conv2d)
    assert not [module for module in fast.modules() if isinstance(module, fused)]


def test_residual_additions_are_fused() -> None:
    fast = pack(randomised(tiny()))
    kinds = [type(module) for module in fast.modules()]
    assert kinds.count(PackedResidual) == 4 + 2 * 2  # one in a pooling block, two in an attention block
    assert kinds.count(PackedConv) == 2 + 3 + 4 * 2 + 2 * 4


def test_the_same_images_give_the_same_outputs_again_and_are_left_alone() -> None:
    fast, x = pack(randomised(tiny())), torch.randn(2, 3, 32, 32)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(fast(x), fast(x))
    assert torch.equal(x, before)


def test_the_network_is_left_alone() -> None:
    network = randomised(tiny()).train()
    before = copy.deepcopy(network.state_dict())
    pack(network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_without_the_operators_only_the_memory_layout_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_available", lambda: False)
    network, x = randomised(tiny()), torch.randn(1, 3, 32, 32)
    fast = pack(network)
    assert not [module for module in fast.modules() if isinstance(module, PackedConv)]
    weights = [module.weight for module in fast.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    with torch.no_grad():
        assert relative_difference(fast(x), network(x)) <= 1e-4


@pytest.mark.parametrize("change", [lambda network: network.half(), lambda network: network.to("meta")])
def test_what_cannot_be_packed_is_refused(change: Callable[[nn.Module], EfficientFormer]) -> None:
    with pytest.raises(InputError, match="must be float32 on the CPU"):
        pack(change(randomised(tiny())))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # inductor's own import
def test_a_packed_network_compiles() -> None:
    network, x = randomised(tiny()), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(pack(network), fullgraph=True)
        assert relative_difference(compiled(x), network(x)) <= 1e-4
