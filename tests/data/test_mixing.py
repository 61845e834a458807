from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from efficientformer.data.augmentation import Augmentation
from efficientformer.data.mixing import Mixing, seeded

CLASSES, SIDE = 8, 16
CPU = torch.device("cpu")


def plain(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is of the value i everywhere and the class i."""
    labels = torch.arange(count)
    return labels.float()[:, None, None, None].expand(count, 3, SIDE, SIDE).clone(), labels


def mixing(what: Augmentation, smoothing: float = 0.0, seed: int = 0) -> Mixing:
    return Mixing(what, smoothing, CLASSES, seed)


def states() -> tuple[object, ...]:
    numpy = np.random.get_state(legacy=False)
    return random.getstate(), json.dumps(numpy, default=np.ndarray.tolist), torch.get_rng_state().tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_targets_are_smoothed_labels(smoothing: float) -> None:
    x, labels = plain(5)
    before, logits = x.clone(), torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(0))
    same, targets = mixing(Augmentation(), smoothing)(x, labels, 0)
    assert torch.equal(same, before)
    assert targets.dtype == torch.float32
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert F.cross_entropy(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (Augmentation(mixup=0.8), {"mixup"}),
        (Augmentation(cutmix=1.0), {"cutmix"}),
        (Augmentation(mixup=0.8, cutmix=1.0), {"mixup", "cutmix"}),
        (Augmentation(mixup=0.8, cutmix=1.0, mix_switch=1.0), {"cutmix"}),
        (Augmentation(mixup=0.8, cutmix=1.0, mix_switch=0.0), {"mixup"}),
    ],
)
def test_targets_tell_what_the_images_are_made_of(
    what: Augmentation, expected: set[str], smoothing: float
) -> None:
    kinds = set()
    for step in range(30):
        x, targets = mixing(what, smoothing)(*plain(6), step)
        shares = (targets - smoothing / CLASSES) / (1 - smoothing)
        assert torch.allclose(targets.sum(1), torch.ones(6), atol=1e-5)
        mean = (shares * torch.arange(CLASSES)).sum(1)
        assert torch.allclose(x.mean((1, 2, 3)), mean, atol=1e-4)
        own = shares[torch.arange(6), torch.arange(6)]
        assert torch.allclose(
            own + shares[torch.arange(6), torch.arange(6).flip(0)], torch.ones(6), atol=1e-5
        )
        if 0.01 < own[0] < 0.99:
            kinds.add("cutmix" if set(x[0].unique().tolist()) == {0.0, 5.0} else "mixup")
    assert kinds == expected


def test_mixing_is_a_function_of_seed_step_and_rank() -> None:
    paper = Augmentation(erase=0.5, mixup=0.8, cutmix=1.0)
    first, targets = mixing(paper)(*plain(6), 5, rank=1)
    again, same = mixing(paper)(*plain(6), 5, rank=1)
    assert torch.equal(first, again)
    assert torch.equal(targets, same)
    for seed, step, rank in ((1, 5, 1), (0, 6, 1), (0, 5, 0)):
        other, _ = mixing(paper, seed=seed)(*plain(6), step, rank)
        assert not torch.equal(other, first)


def test_mixing_does_not_touch_the_global_generators() -> None:
    before = states()
    mixing(Augmentation(erase=1.0, mixup=0.8, cutmix=1.0))(*plain(6), 3)
    assert states() == before


def test_generators_go_on_after_an_error() -> None:
    before = states()
    with pytest.raises(KeyError), seeded((0, 1), CPU):
        random.random(), np.random.rand(), torch.rand(1)
        raise KeyError
    assert states() == before


def test_seeds_seed_all_three() -> None:
    def drawn(*seed: int) -> list[float]:
        with seeded(seed, CPU):
            return [random.random(), np.random.rand(), torch.rand(1).item()]

    assert drawn(0, 1) == drawn(0, 1)
    assert not set(drawn(0, 1)) & set(drawn(1, 0))


@pytest.mark.parametrize(("count", "expected"), [(5, 4), (4, 4), (3, 2), (2, 2), (1, 1), (0, 0)])
def test_pairs_are_mixed(count: int, expected: int) -> None:
    x, targets = mixing(Augmentation(mixup=0.8), 0.1)(*plain(count), 0)
    assert len(x) == len(targets) == expected
    if count < 2:
        assert not x.any()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_rectangles_of_noise_are_erased(share: float) -> None:
    count = 400
    x, _ = mixing(Augmentation(erase=share))(
        torch.full((count, 3, 32, 32), 9.0), torch.zeros(count, dtype=torch.long), 0
    )
    erased = (x != 9).any(1)
    hit = erased.flatten(1).any(1)
    assert abs(int(hit.sum()) - share * count) <= 4.5 * (share * (1 - share) * count) ** 0.5
    noise = x[(x != 9)]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    for one in erased[hit]:
        rows, columns = one.any(1).nonzero(), one.any(0).nonzero()
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert one.sum() == box
        assert 0.01 < box / 1024 < 0.36  # 2 % to a third, rounded to pixels


def test_images_are_erased_before_they_are_mixed() -> None:
    """Then the noise of both shows in both."""
    x, targets = mixing(Augmentation(erase=1.0, mixup=0.8))(torch.zeros(2, 3, 32, 32), torch.arange(2), 3)
    assert 0.05 < targets[0, 0] < 0.95
    noise = (x != 0).any(1)
    assert torch.equal(noise[0], noise[1])
    assert noise[0].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_an_accelerator() -> None:
    before = states(), torch.cuda.get_rng_state().tolist()
    results = []
    for _ in range(2):
        x, labels = plain(6)
        results.append(mixing(Augmentation(erase=1.0, mixup=0.8, cutmix=1.0))(x.cuda(), labels.cuda(), 3))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (states(), torch.cuda.get_rng_state().tolist()) == before
