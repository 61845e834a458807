"""Pairs are fair: the variants that are to compute the same do, and give equal shapes at the stated costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from efficientformer.model.blocks.base import ConvNorm
from efficientformer.model.blocks.pool import FoldedPoolBlock
from efficientformer.study import variants as of
from efficientformer.study.experiment import Experiment, subject_of, way
from efficientformer.study.experiments import EXPERIMENTS, IMAGE
from efficientformer.study.observations import OBSERVATIONS

BY_NAME = {one.name: one for one in EXPERIMENTS}
SMALL = [one for one in EXPERIMENTS if not one.name.startswith("l1")]


@torch.no_grad()
def output(build: Callable[[], nn.Module], image: tuple[int, ...]) -> torch.Tensor:
    images = torch.randn(1, *image, generator=torch.Generator().manual_seed(3))
    return build()(images)


@pytest.mark.parametrize("experiment", SMALL, ids=lambda one: one.name)
def test_variants_give_as_many_numbers_as_the_baseline(experiment: Experiment) -> None:
    shapes = {one.name: output(one.build, one.image).shape for one in experiment.all}
    wanted = shapes[experiment.baseline.name]
    for name, shape in shapes.items():
        if "tokens" in name and experiment.observation == 3:  # (1, 1, N, C) for (1, C, H, W)
            assert (shape[3], shape[2]) == (wanted[1], wanted[2] * wanted[3])
        else:
            assert shape == wanted


@pytest.mark.parametrize(
    ("name", "different"),
    [
        ("stage-1-layout", set()),
        ("stage-3-layout", set()),
        ("mlp-layout", set()),
        ("heads-7", {"without the products"}),
        ("heads-14", {"without the products"}),
    ],
)
def test_layouts_change_nothing_but_the_layout(name: str, different: set[str]) -> None:
    experiment = BY_NAME[name]
    wanted = output(experiment.baseline.build, experiment.baseline.image)
    for one in experiment.variants:
        given = output(one.build, one.image)
        difference = (given - wanted).abs().max() / wanted.abs().max()
        assert (difference > 1e-3) if one.name in different else (difference < 1e-5), one.name


@pytest.mark.slow
def test_l1_on_tokens_is_l1() -> None:
    wanted, given = output(of.l1, IMAGE), output(of.l1_reshaped, IMAGE)
    assert torch.allclose(wanted, given, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_l1_has_a_norm_before_each_of_its_14_pooling_mlps(norm: str) -> None:
    with torch.device("meta"):
        blocks = [part for part in of.l1_normed(norm).modules() if isinstance(part, FoldedPoolBlock)]
    firsts = {type(block.mlp.path[0]).__name__ for block in blocks}
    assert len(blocks) == 14
    assert firsts == {"Normalise" if norm == "layer" else "GroupNorm"}


def test_a_folded_batch_norm_computes_what_it_did() -> None:
    trained = of.seeded(lambda: ConvNorm(8, 16))
    wanted, given = output(lambda: trained, (8, 5, 5)), output(lambda: of.conv_norm(8, 16), (8, 5, 5))
    assert torch.allclose(wanted, given, atol=1e-6)
    assert isinstance(of.conv_norm(8, 16), nn.Conv2d)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_norms_normalise(norm: str) -> None:
    normed = of.norm_conv(6, 4, norm)[0](torch.randn(1, 6, 5, 5) * 7 + 3)
    if norm == "layer":
        assert torch.allclose(normed.mean(1), torch.zeros(1, 5, 5), atol=1e-5)
    assert abs(float(normed.mean())) < 1e-5
    assert abs(float(normed.std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("name", "variant", "times"),
    [
        ("patch-16", "four 3×3, LeViT-256’s widths", (4.7, 4.9)),
        ("patch-16", "four 3×3, thin (12, 24, 48)", (0.9, 1.1)),
        ("patch-7", "two 3×3, L1’s stem", (1.8, 1.9)),
        ("patch-7", "two 3×3, thin (12)", (0.9, 1.1)),
        ("patch-4", "two 3×3, L1’s stem", (5.6, 5.7)),
        ("patch-4", "two 3×3, thin (4)", (0.9, 1.1)),
        ("attention-7", "attention block", (0.98, 1.02)),
        ("attention-14", "attention block", (0.98, 1.02)),
        ("mlp-layout", "by turns, as LeViT", (1, 1)),
        ("norm-stage-1", "LayerNorm, linear, tokens", (1, 1)),
        ("l1-norms", "L1, LayerNorm before each MLP", (1, 1)),
        ("l1-activation", "HardSwish", (1, 1)),
    ],
)
def test_multiply_accumulates_are_as_told(name: str, variant: str, times: tuple[float, float]) -> None:
    experiment = BY_NAME[name]
    one = next(one for one in experiment.variants if one.name == variant)
    macs = subject_of(one).macs or 0
    assert times[0] <= macs / (subject_of(experiment.baseline).macs or 1) <= times[1]


def test_weights_are_the_same_each_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    one, other = of.stack(4, 8), of.stack(4, 8)
    assert torch.equal(torch.rand(1), wanted)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.abs().min() > 0


@pytest.mark.parametrize("build", [lambda: of.mlps(8, 4, 2, "sideways"), lambda: of.mixer(8, 4, "sideways")])
def test_unknown_forms_are_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="sideways"):
        build()


def test_every_observation_has_experiments_whose_names_are_their_own() -> None:
    assert {one.observation for one in EXPERIMENTS} == {one.number for one in OBSERVATIONS} == {1, 2, 3, 4}
    assert len(BY_NAME) == len(EXPERIMENTS)
    for one in EXPERIMENTS:
        assert len({variant.name for variant in one.all}) == len(one.all)
        assert any(variant.expect for variant in one.variants), one.name
        assert one.baseline.expect is None


def test_what_follows_can_be_told_of_every_variant() -> None:
    for one in EXPERIMENTS:
        for text in (one.follows.faster, one.follows.slower, one.follows.equal):
            assert "{" not in text.format(variant="a", baseline="b")


def test_equal_builders_share_an_export() -> None:
    same = [
        way("a", (3, 8, 8), of.stack, 4, 8),
        way("b", (3, 8, 8), of.stack, 4, 8, expect="faster"),
        way("c", (3, 8, 8), of.stack, 4, 9),
        way("d", (3, 8, 8), of.pool_stage, 4, 8, reshaping=True),
        way("e", (3, 8, 8), of.pool_stage, 4, 8),
    ]
    assert same[0].identity == same[1].identity
    assert len({one.identity for one in same}) == 4
