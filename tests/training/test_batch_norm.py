"""Batch-norm statistics of a network's own weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficientformer.data.batches import normalise
from efficientformer.data.images import Images
from efficientformer.training.batch_norm import reestimate_batch_norm
from tests.strategies import randomised, tiny


class Normed(nn.Module):
    """One batch norm on the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=0.3)
        nn.init.constant_(self.norm.running_mean, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).mean((2, 3))


def greys(values: list[int], side: int = 10) -> Images:
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, side, side, 3)
    return Images(pixels.contiguous(), torch.zeros(len(values)), ())


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
    images = greys(list(range(100)))
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
