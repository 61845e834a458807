from __future__ import annotations

import dataclasses
import json

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from efficientformer.data.batches import normalise
from efficientformer.data.images import Images
from efficientformer.training.evaluate import Score, evaluate, reestimate_batch_norm
from efficientformer.training.recipe import Recipe
from tests.strategies import randomised, tiny


def greys(labels: list[int], values: list[int], side: int = 10) -> Images:
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, side, side, 3)
    return Images(pixels.contiguous(), torch.tensor(labels), ())


class Threshold(nn.Module):
    """Class 1 for images lighter than the mean, class 0 for darker ones, each with the same certainty."""

    def forward(self, x: Tensor) -> Tensor:
        light = (x.mean((1, 2, 3)) > 0).float()
        return torch.stack([1 - light, light], 1) * 2


@pytest.mark.parametrize(
    ("labels", "values", "right"),
    [
        ([0, 0, 1, 1], [0, 10, 250, 240], 4),
        ([1, 1, 0, 0], [0, 10, 250, 240], 0),
        ([0, 1, 1, 1], [0, 10, 250, 240], 3),
        ([0] * 300 + [1] * 300, ([0] * 200 + [250] * 100) + [250] * 300, 500),  # more than one batch
        ([1], [250], 1),
    ],
)
def test_accuracy_and_loss_are_exact(labels: list[int], values: list[int], right: int) -> None:
    score = evaluate(Threshold().train(), greys(labels, values), 8)
    logits = torch.tensor([0.0, 2.0]).log_softmax(0)
    loss = -(right * logits[1] + (len(labels) - right) * logits[0]) / len(labels)
    assert score.top1 == right / len(labels)
    assert score.loss == pytest.approx(float(loss), rel=1e-5)
    assert score.images == len(labels)


def test_a_network_is_scored_in_evaluation_mode_and_without_gradients() -> None:
    network = randomised(tiny()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = Images(torch.randint(0, 256, (5, 37, 37, 3), dtype=torch.uint8), torch.arange(5) % 3, ())
    score = evaluate(network, images, 32)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        logits = network(normalise(images.pixels[:, 2:34, 2:34]))
    assert score.top1 == pytest.approx(float((logits.argmax(1) == images.labels).double().mean()))
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, images.labels)), rel=1e-4)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_is_wilsons(count: int, share: float) -> None:
    right = round(share * count)
    low, high = Score(right / count, 0.0, count).interval
    expected = scipy.stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-4)
    assert high == pytest.approx(expected.high, abs=1e-4)
    assert 0 <= low <= right / count <= high + 1e-12
    assert high <= 1


def test_no_accuracy_is_printed_without_its_number_of_images() -> None:
    score = Score(0.8125, 0.5, 160)
    assert str(score) == "81.25 % of 160 images"
    document = json.loads(json.dumps(score.to_json()))
    assert {name: document[name] for name in ("top1", "loss", "images")} == dataclasses.asdict(score)
    assert document["interval"] == [round(side, 4) for side in score.interval]


# Batch norm


class Normed(nn.Module):
    """One batch norm on the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=0.3)
        nn.init.constant_(self.norm.running_mean, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).mean((2, 3))


def noise(count: int, side: int = 10) -> Images:
    return Images(torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8), torch.zeros(count), ())


def test_statistics_of_one_batch_are_exact() -> None:
    network, images = Normed(), noise(50)
    reestimate_batch_norm(network, images, 8)
    x = normalise(images.pixels[:, 1:9, 1:9])
    assert torch.allclose(network.norm.running_mean, x.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network.norm.running_var, x.var((0, 2, 3), unbiased=True), atol=1e-5)
    assert network.norm.momentum == 0.3
    assert not network.training


def test_statistics_of_several_batches_are_their_mean() -> None:
    network, images = Normed(), noise(256)
    reestimate_batch_norm(network, images, 8)
    x = normalise(images.sample(256).pixels[:, 1:9, 1:9]).unflatten(0, (2, 128))
    assert torch.allclose(network.norm.running_mean, x.mean((1, 3, 4)).mean(0), atol=1e-5)
    assert torch.allclose(network.norm.running_var, x.var((1, 3, 4), unbiased=True).mean(0), atol=1e-5)


def test_so_many_images_are_used_with_the_classes_mixed() -> None:
    network = Normed()
    images = greys([0] * 100, list(range(100)))
    reestimate_batch_norm(network, images, 8, count=10)
    x = normalise(images.sample(10).pixels[:, 1:9, 1:9])
    assert torch.allclose(network.norm.running_mean, x.mean((0, 2, 3)), atol=1e-5)


def test_weights_stay_and_every_norm_is_done() -> None:
    network = randomised(tiny())
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    stale = {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}
    reestimate_batch_norm(network, Images(noise(8, 37).pixels, torch.zeros(8), ()), 32)
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert all(not torch.equal(network.get_buffer(name), buffer) for name, buffer in stale.items())
    assert stale


def test_in_evaluation_the_reestimated_network_normalises_those_images() -> None:
    network, images = Normed(), noise(64)
    reestimate_batch_norm(network, images, 8)
    with torch.no_grad():
        y = network.norm(normalise(images.pixels[:, 1:9, 1:9]))
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(y.var((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_a_recipe_is_a_json_document() -> None:
    recipe = Recipe(epochs=3)
    assert json.loads(json.dumps(recipe.to_json())) == recipe.to_json()
    assert recipe.to_json()["augmentation"] == {"min_area": 0.35, "flip": True}
