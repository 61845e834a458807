from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer import Layer
from efficientformer.model.blocks import Head, build_layer
from efficientformer.model.blocks.head import FoldedHead, FoldedHead2d, Head2d
from tests.strategies import randomise

KINDS = pytest.mark.parametrize("kind", ["head", "head2d"])


def built(kind: str, classes: int = 5, heads: int = 2) -> Head:
    head = build_layer(Layer(kind, 8, classes, 3, 2, heads=heads))
    assert isinstance(head, Head)
    randomise(head)
    return head.eval()


def features(kind: str) -> Tensor:
    return torch.randn(2, 6, 8) if kind == "head" else torch.randn(2, 8, 3, 2)


def on_map(x: Tensor) -> Tensor:
    """Every deployed head takes a map."""
    return x if x.ndim == 4 else x.transpose(1, 2).unflatten(2, (3, 2))


def reference(head: Head, x: Tensor) -> list[Tensor]:
    """(B, positions, classes) of each classifier, from the definition."""
    norm = head.norm
    if isinstance(norm, nn.LayerNorm):
        normed = F.layer_norm(x, (8,), norm.weight, norm.bias)
    else:
        assert isinstance(norm, nn.BatchNorm2d)
        normed = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        normed = normed.flatten(2).transpose(1, 2)
    return [normed @ one.weight.T + one.bias for one in head.classifiers()]


@KINDS
@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_the_head_is_norm_mean_and_the_classifiers_mean(kind: str, heads: int) -> None:
    head, x = built(kind, heads=heads), features(kind)
    assert len(head.classifiers()) == heads
    wanted = torch.stack(reference(head, x)).mean(0).mean(1)
    assert torch.allclose(head(x), wanted, atol=1e-5)
    assert torch.allclose(head.fold()(on_map(x)), wanted, atol=1e-5)


@KINDS
@torch.no_grad()
def test_unpooled_there_is_an_output_at_every_position(kind: str) -> None:
    head, x = built(kind), features(kind)
    head.pooled = False
    wanted = torch.stack(reference(head, x)).mean(0)
    if kind == "head2d":
        wanted = wanted.transpose(1, 2).unflatten(2, (3, 2))
    assert torch.allclose(head(x), wanted, atol=1e-5)
    assert torch.allclose(head.fold()(on_map(x)), wanted, atol=1e-5)


@KINDS
@pytest.mark.parametrize("heads", [1, 2])
def test_the_head_gives_a_pair_in_training_and_its_mean_in_evaluation(kind: str, heads: int) -> None:
    head, x = built(kind, heads=heads), features(kind)
    head.distilled_training = True
    head.norm.eval()
    trained, evaluated = head.train().classify(head.norm.eval()(x)), head.eval()(x)
    if heads == 1:
        assert isinstance(trained, Tensor)
        assert torch.equal(trained, evaluated)
    else:
        assert isinstance(trained, tuple)
        assert not torch.allclose(*trained)
        assert torch.allclose(torch.stack(trained).mean(0), evaluated, atol=1e-6)


@KINDS
@pytest.mark.parametrize("pooled", [True, False])
def test_without_classes_the_output_is_the_features(kind: str, pooled: bool) -> None:
    head, x = built(kind, classes=0), features(kind)
    head.pooled = pooled
    normed = head.norm(x)
    positions = 1 if kind == "head" else (2, 3)
    assert head.classifiers() == []
    wanted = normed.mean(positions) if pooled else normed
    assert torch.equal(head(x), wanted)
    assert torch.allclose(head.fold()(on_map(x)), wanted, atol=1e-6)


@KINDS
@pytest.mark.parametrize("classes", [5, 0])
def test_pre_logits_are_the_pooled_features(kind: str, classes: int) -> None:
    head, x = built(kind, classes), features(kind)
    normed = head.norm(x)
    given = head.classify(normed, pre_logits=True)
    assert isinstance(given, Tensor)
    assert torch.equal(given, normed.mean(1 if kind == "head" else (2, 3)))


@KINDS
@pytest.mark.parametrize("training", [True, False])
def test_new_classifiers_are_where_and_what_the_head_is(kind: str, training: bool) -> None:
    head = built(kind).double().train(training)
    head.set_classes(7, 2)
    assert [tuple(one.weight.shape) for one in head.classifiers()] == [(7, 8), (7, 8)]
    assert all(one.weight.dtype == torch.float64 and one.training is training for one in head.classifiers())
    head.set_classes(0, 2)
    assert not [name for name in head.state_dict() if "norm" not in name]


def test_the_forms_are_told_apart() -> None:
    assert isinstance(built("head").fold(), FoldedHead)
    assert isinstance(built("head2d"), Head2d)
    assert isinstance(built("head2d").fold(), FoldedHead2d)
