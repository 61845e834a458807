"""One step of what learns: parts add up to the whole, averages follow, every precision learns."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn
from torch.nn import functional as F

from efficientformer.training.learner import Learner, Part
from efficientformer.training.recipe import Recipe

RECIPE = Recipe(epochs=1, learning_rate=1e-2, label_smoothing=0.0)


class Net(nn.Module):
    """No batch norm: parts of a batch then add up exactly to the whole."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.conv(x).relu().mean((2, 3))
        first, *rest = (head(features) for head in self.heads)
        return (first, rest[0]) if rest else first


def net(heads: int = 1) -> Net:
    torch.manual_seed(0)
    return Net(heads)


def batch(count: int = 7, advice: bool = False) -> Part:
    random = torch.Generator().manual_seed(1)
    targets = torch.rand(count, 3, generator=random).softmax(1)
    logits = torch.randn(count, 3, generator=random) if advice else None
    return Part(torch.randn(count, 3, 8, 8, generator=random), targets, logits)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["none", "hard", "soft"])
def test_parts_add_up_to_the_whole(count: int, kind: Any) -> None:
    """Of 7 images in parts of unequal size; the teacher's advice is parted too."""
    recipe = dataclasses.replace(RECIPE, distillation=kind, clip=0.0)
    whole, parted = net(2), net(2)
    part = batch(advice=kind != "none")
    one = Learner(whole, recipe).step(part, 0)
    other = Learner(parted, dataclasses.replace(recipe, accumulate=count)).step(part, 0)
    assert torch.allclose(one, other, atol=1e-6)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_something_is_drawn_before_each_part() -> None:
    calls: list[int] = []
    learner = Learner(net(), dataclasses.replace(RECIPE, accumulate=3))
    learner.before_part = lambda: calls.append(1)
    learner.step(batch(), 0)
    assert len(calls) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(precision: Any) -> None:
    learner = Learner(net(), dataclasses.replace(RECIPE, precision=precision, learning_rate=5e-2))
    part = batch()
    losses = [learner.step(part, step).item() for step in range(30)]
    assert losses[-1] < losses[0] - 0.005
    assert all(parameter.dtype == torch.float32 for parameter in learner.model.parameters())
    assert learner.scaler.is_enabled() == (precision == "fp16")


def test_in_fp16_a_step_that_overflows_is_left_out_and_the_scale_halved() -> None:
    learner = Learner(net(), dataclasses.replace(RECIPE, precision="fp16"))
    before, scale = copy.deepcopy(learner.model.state_dict()), learner.scaler.get_scale()
    part = batch()
    learner.step(Part(part.x * 1e6, part.targets), 0)
    assert all(torch.equal(before[name], now) for name, now in learner.model.state_dict().items())
    assert learner.scaler.get_scale() == scale / 2


def test_gradients_are_clipped_as_timm_does_after_the_scale_is_taken_out() -> None:
    recipe = dataclasses.replace(RECIPE, clip=0.01)
    model, reference, part = net(), net(), batch()
    Learner(model, recipe).step(part, 0)
    F.cross_entropy(reference(part.x), part.targets).backward()  # ty: ignore[invalid-argument-type]
    adaptive_clip_grad(reference.parameters(), 0.01)
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-7)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_follows_the_weights(warmup: bool) -> None:
    learner = Learner(net(), dataclasses.replace(RECIPE, ema=0.9, ema_warmup=warmup))
    assert learner.average is not None
    expected = learner.model.conv.weight.detach().clone()  # ty: ignore
    for step in range(5):
        learner.step(batch(), step)
        rising = 1 - max(1, step) ** (-2 / 3)  # timm's, from nothing
        decay = min(0.9, rising) if warmup else 0.9
        expected.lerp_(learner.model.conv.weight.detach(), 1 - decay)  # ty: ignore
    assert torch.allclose(learner.average.module.conv.weight, expected, atol=1e-6)  # ty: ignore


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_it_learns_the_same() -> None:
    plain, compiled = net(), net()
    one = Learner(plain, RECIPE).step(batch(), 0)
    other = Learner(compiled, dataclasses.replace(RECIPE, compile=True)).step(batch(), 0)
    assert torch.allclose(one, other, atol=1e-5)
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
