"""RandAugment against timm's, operation by operation and in distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment as timm_augment

from efficientformer.data.augmentation import Interpolation
from efficientformer.data.mixing import seeded
from efficientformer.data.rand_augment import FILL, OPERATIONS, RandAugment, rand_augment
from efficientformer.errors import InputError
from tests.data.test_operations import planes, smooth

PAPER = "rand-m9-mstd0.5-inc1"
GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
LEVELS = (0.0, 1.0, 3.3, 5.0, 9.0, 9.73, 10.0)
SIDE = 48


@dataclass(frozen=True)
class Only(RandAugment):
    """One operation, with one argument, for every image."""

    operation: str = ""
    argument: float = 0.0

    def draws(self, seed: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = OPERATIONS.index(self.operation)
        return np.full((1, len(numbers)), place), np.full((1, len(numbers)), self.argument)


def timm_name(operation: str, increasing: int) -> str:
    longer = operation + "Increasing"
    return longer if increasing and longer in timm_augment.NAME_TO_OP else operation


def timm_arguments(monkeypatch: pytest.MonkeyPatch, name: str, level: float, sign: int) -> tuple[float, ...]:
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: sign * value)
    function = timm_augment.LEVEL_TO_ARG[name]
    arguments = function(level, {}) if function else ()
    return (
        tuple(max(1, bits) for bits in arguments) if name.startswith("Posterize") else arguments
    )  # see there


def many_kinds() -> np.ndarray:
    """Smooth pictures, noise, noise of little contrast, one grey, two greys."""
    random = np.random.default_rng(1)
    shape = (1, SIDE, SIDE, 3)
    noise, faint = random.integers(0, 256, shape), random.integers(60, 99, shape)
    two = np.where(random.random(shape) < 0.001, 9, 200)
    parts = (smooth(2, SIDE), noise, faint, np.full(shape, 7), two)
    return np.concatenate([part.astype(np.uint8) for part in parts])


def by_timm(
    name: str, pixels: np.ndarray, *arguments: float, interpolation: str = "bilinear"
) -> torch.Tensor:
    operation = partial(timm_augment.NAME_TO_OP[name], fillcolor=FILL)
    resampling = Image.Resampling[interpolation.upper()]
    images = [operation(Image.fromarray(one), *arguments, resample=resampling) for one in pixels]
    return planes(np.stack([np.asarray(one) for one in images]))


@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name not in GEOMETRIC])
def test_colours_are_timms_to_the_bit(
    operation: str, increasing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pixels = timm_name(operation, increasing), many_kinds()
    for level in LEVELS:
        for sign in (1, -1):
            arguments = timm_arguments(monkeypatch, name, level, sign)
            one = Only(operation=operation, argument=arguments[0] if arguments else 0.0)
            apart = one(planes(pixels), 0, np.arange(len(pixels))) - by_timm(name, pixels, *arguments)
            if operation == "AutoContrast":  # PIL's floating point may fall short of a whole number
                assert set(apart.unique().tolist()) <= {0, 1}
                assert apart.mean() < 0.01
            else:
                assert not apart.any()


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1), ("bicubic", 5)])
@pytest.mark.parametrize("operation", sorted(GEOMETRIC))
def test_shapes_are_timms(
    operation: str, interpolation: Interpolation, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everywhere, but that a pixel on the very edge may be inside for one and outside for the other."""
    pixels = smooth(3, SIDE)
    for level in LEVELS:
        for sign in (1, -1):
            (argument,) = timm_arguments(monkeypatch, operation, level, sign)
            one = Only(operation=operation, argument=argument, interpolation=interpolation)
            result = one(planes(pixels), 0, np.arange(3))
            apart = (result - by_timm(operation, pixels, argument, interpolation=interpolation)).abs()
            assert (apart > most).double().mean() < 0.002, (level, sign)
            assert apart.mean() < 1


@given(st.floats(0, 10), st.sampled_from([1, -1]), st.booleans())
def test_arguments_are_timms(level: float, sign: int, increasing: bool) -> None:
    ours = RandAugment(increasing=int(increasing)).arguments(np.array([level]), np.array([float(sign)]))
    with pytest.MonkeyPatch.context() as patch:
        for place, operation in enumerate(OPERATIONS):
            expected = timm_arguments(patch, timm_name(operation, increasing), level, sign)
            assert ours[place, 0] == pytest.approx(expected[0] if expected else 0, abs=1e-12)


def test_operations_are_timms() -> None:
    assert [timm_name(name, 0) for name in OPERATIONS] == timm_augment._RAND_TRANSFORMS
    assert [timm_name(name, 1) for name in OPERATIONS] == timm_augment._RAND_INCREASING_TRANSFORMS


# Specifications


@pytest.mark.parametrize(
    "spec",
    [PAPER, "rand", "rand-m6", "rand-n3-p0.25", "rand-mstd101", "rand-m15-mmax20", "rand-inc0-m9-mstd1-p1"],
)
def test_specifications_mean_what_timm_means(spec: str) -> None:
    ours, timms = rand_augment(spec), timm_augment.rand_augment_transform(spec, {"img_mean": FILL})
    one = timms.ops[0]
    assert ours.layers == timms.num_layers
    assert (ours.magnitude, ours.probability) == (one.magnitude, one.prob)
    assert ours.bound == (one.magnitude_max or 10)
    assert ours.deviation == one.magnitude_std or (ours.deviation > 100 and math.isinf(one.magnitude_std))
    assert [timm_name(name, ours.increasing) for name in OPERATIONS] == [op.name for op in timms.ops]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "write it like"),
        ("augmix-m5", "write it like"),
        ("rand-m9-m8", "each part once"),
        ("rand-tweights", "'tweights' is not known"),
        ("rand-z3", "'z3' is not known"),
        ("rand-", "'' is not known"),
        ("rand-mstd", "'mstd' is not known"),
        ("rand-m9.5", "'m9.5' is not known"),
        ("rand-n0", "'n0' must lie between 1"),
        ("rand-p1.5", "between 0 and 1"),
        ("rand-inc2", "between 0 and 1"),
    ],
)
def test_unknown_parts_are_refused(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rand_augment(spec)


# What is drawn


def timms_draws(spec: str, count: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Operations carried out by timm, and what magnitude each had."""
    seen: list[tuple[str, float]] = []
    transform = timm_augment.rand_augment_transform(spec, {"img_mean": FILL})
    for op in transform.ops:
        monkeypatch.setattr(
            op, "level_fn", lambda level, _hparams, name=op.name: seen.append((name, level)) or ()
        )
        monkeypatch.setattr(op, "aug_fn", lambda image, **_: image)
    with seeded((0,), torch.device("cpu")):
        for _ in range(count):
            transform(None)
    return seen


def apart(ours: np.ndarray, others: np.ndarray) -> float:
    """Kolmogorov and Smirnov's distance in units in which 1.95 has a chance of a thousandth."""
    both = np.sort(np.concatenate([ours, others]))
    shares = [np.searchsorted(np.sort(one), both, "right") / len(one) for one in (ours, others)]
    return float(np.abs(shares[0] - shares[1]).max() * (len(ours) * len(others) / len(both)) ** 0.5)


@pytest.mark.parametrize("spec", [PAPER, "rand-m9-mstd101-n3-p0.8", "rand-m4-mstd3-inc1", "rand-m5"])
def test_draws_are_distributed_like_timms(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 6000
    ours = rand_augment(spec)
    kept: list[np.ndarray] = []
    first_levels = RandAugment._levels
    monkeypatch.setattr(RandAugment, "_levels", lambda *all_: kept.append(first_levels(*all_)) or kept[-1])
    drawn, _ = ours.draws(0, np.arange(count))
    timms = timms_draws(spec, count, monkeypatch)
    carried_out = drawn >= 0
    slots = count * ours.layers
    spread = (ours.probability * (1 - ours.probability) * slots) ** 0.5
    assert abs(carried_out.sum() - len(timms)) < 6 * spread
    for place, name in enumerate(OPERATIONS):
        mine = int((drawn == place).sum())
        theirs = sum(seen == timm_name(name, ours.increasing) for seen, _ in timms)
        assert abs(mine - theirs) < 4.5 * (mine + theirs) ** 0.5, name
    assert apart(kept[0][carried_out], np.array([level for _, level in timms])) < 1.95


def test_layers_and_operations_are_drawn_independently() -> None:
    drawn, arguments = rand_augment("rand-m9-mstd0.5-inc1-p1").draws(0, np.arange(30_000))
    pairs = np.bincount(drawn[0] * len(OPERATIONS) + drawn[1], minlength=len(OPERATIONS) ** 2)
    expected = 30_000 / len(pairs)
    chi = ((pairs - expected) ** 2 / expected).sum()
    assert abs(chi - len(pairs)) < 4.5 * (2 * len(pairs)) ** 0.5
    turned = drawn == OPERATIONS.index("Rotate")
    assert 0.45 < (arguments[turned] > 0).mean() < 0.55


@given(st.integers(0, 2**32), st.lists(st.integers(0, 299), min_size=1, max_size=40))
def test_draws_are_the_same_however_images_are_dealt_out(seed: int, some: list[int]) -> None:
    numbers, augment = np.arange(10**9, 10**9 + 300), rand_augment(PAPER)
    for whole, part in zip(augment.draws(seed, numbers), augment.draws(seed, numbers[some]), strict=True):
        assert np.array_equal(whole[:, some], part)


# Whole batches


def test_images_are_treated_by_their_own_numbers_alone() -> None:
    """One by one, in parts or all at once: the same to the bit."""
    augment, pixels = rand_augment(PAPER, "bicubic"), smooth(40, 24)
    numbers = np.arange(100, 140)
    whole = augment(planes(pixels), 3, numbers)
    for size in (1, 7):
        for start in range(0, 40, size):
            part = slice(start, start + size)
            assert torch.equal(augment(planes(pixels[part]), 3, numbers[part]), whole[part])
    assert not torch.equal(augment(planes(pixels), 4, numbers), whole)
    assert torch.equal(whole.byte().float(), whole)


def test_operations_follow_one_another_as_drawn() -> None:
    augment, pixels = rand_augment("rand-m9-mstd0.5-inc1-p0.9"), smooth(150, 16)
    numbers = np.arange(len(pixels))
    result = augment(planes(pixels), 0, numbers)
    checked = 0
    for image, (places, arguments) in enumerate(
        zip(*(one.T for one in augment.draws(0, numbers)), strict=True)
    ):
        names = [OPERATIONS[place] for place in places if place >= 0]
        if GEOMETRIC.union({"AutoContrast"}).intersection(names):
            continue  # compared above, where they may differ by a grey level
        expected = pixels[image]
        for place, argument in zip(places, arguments, strict=True):
            if place >= 0:
                name = OPERATIONS[place]
                whole = (
                    argument if name in ("Color", "Contrast", "Brightness", "Sharpness") else int(argument)
                )
                treated = by_timm(name, expected[None], *(() if name in ("Equalize", "Invert") else (whole,)))
                expected = treated[0].permute(1, 2, 0).byte().numpy()
        assert torch.equal(result[image], planes(expected[None])[0]), names
        checked += len(names) == 2
    assert checked > 20
