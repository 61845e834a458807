from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from efficientformer import Architecture, EfficientFormer, InputError, create_model, load_checkpoint
from tests.strategies import architectures, randomise, randomised, relative_difference, tiny


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformer_l3", "efficientformer_l7"])
def test_presets_compute_what_timms_do(name: str) -> None:
    theirs = timm.create_model(name).eval()
    randomise(theirs)
    ours = create_model(name)
    load_checkpoint(ours, theirs.state_dict())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wanted = theirs(x)
    with torch.no_grad():
        given = ours(x)
    assert relative_difference(given, wanted) <= 1e-5
    assert wanted.std() > 1e-2  # the logits say something
    assert ours.architecture.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert ours.architecture.macs == counter.get_total_flops() / 2


def test_training_matches_timms_pair_of_heads() -> None:
    theirs = timm.create_model("efficientformer_l1", num_classes=7)
    randomise(theirs)
    theirs.set_distilled_training(True)
    ours = create_model("efficientformer_l1", num_classes=7)
    load_checkpoint(ours, theirs.state_dict())
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours.set_distilled_training()
        wanted, given = theirs.train()(x), ours.train()(x)
    assert len(given) == 2
    assert all(relative_difference(g, w) <= 1e-5 for g, w in zip(given, wanted, strict=True))


@given(architectures(), st.integers(1, 3))
def test_every_architecture_runs_and_gives_logits(architecture: Architecture, batch: int) -> None:
    network = randomised(architecture)
    x = torch.randn(batch, architecture.in_channels, *architecture.input_size)
    with torch.no_grad():
        features, logits = network.forward_features(x), network(x)
    height, width = architecture.grid(3)
    channels = architecture.widths[3]
    maps = architecture.head == "head2d"
    shape = (batch, channels, height, width) if maps else (batch, height * width, channels)
    assert features.shape == shape
    assert logits.shape == (batch, architecture.num_classes)
    assert torch.isfinite(logits).all()
    assert torch.equal(network.forward_head(features), logits)


@given(architectures())
def test_an_identity_computes_nothing(architecture: Architecture) -> None:
    network, compact = randomised(architecture), EfficientFormer(architecture.compact()).eval()
    for mine, theirs in zip(compact.parameters(), network.parameters(), strict=True):
        mine.data = theirs.data
    for mine, theirs in zip(compact.buffers(), network.buffers(), strict=True):
        mine.copy_(theirs)
    x = torch.randn(1, architecture.in_channels, *architecture.input_size)
    with torch.no_grad():
        assert torch.equal(network(x), compact(x))


@pytest.mark.parametrize("distilled", [True, False])
def test_distilled_training_returns_a_pair(distilled: bool) -> None:
    network = randomised(tiny())
    network.set_distilled_training(distilled)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs, evaluated = network.train()(x), network.eval()(x)
    assert isinstance(outputs, tuple) is distilled
    assert isinstance(evaluated, torch.Tensor)
    shapes = [one.shape for one in (outputs if isinstance(outputs, tuple) else (outputs,))]
    assert shapes == [(2, 3)] * (1 + distilled)


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (64, 32), (33, 32), (1, 1)])
def test_an_image_of_another_size_is_refused(size: tuple[int, int]) -> None:
    network = EfficientFormer(tiny())
    with pytest.raises(InputError, match=r"built for \(32, 32\)") as caught:
        network(torch.zeros(1, 3, *size))
    assert str(size) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attention_sees_the_whole_grid_of_a_rectangle() -> None:
    network = randomised(dataclasses.replace(tiny(), input_size=(64, 96)))
    biases = {name: tuple(p.shape) for name, p in network.named_parameters() if "attention_biases" in name}
    assert biases == {
        "stages.2.blocks.0.token_mixer.attention_biases": (2, 4 * 6),
        "stages.3.blocks.1.token_mixer.attention_biases": (2, 2 * 3),
    }


def test_every_parameter_gets_a_gradient() -> None:
    network = randomised(tiny()).train()
    network.set_distilled_training()
    labels, teacher = network(torch.randn(2, 3, 32, 32))
    (labels.square().sum() + teacher.square().sum()).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
