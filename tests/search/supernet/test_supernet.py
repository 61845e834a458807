import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.architecture import Architecture
from efficientformer.latency.untrained import randomise_vectors
from efficientformer.search.space.search_space import OPEN_KINDS, SearchSpace, supernet_space
from efficientformer.search.supernet.draws import Draw, Paths, Sampling, draw, noise_of
from efficientformer.search.supernet.inherit import inherit
from efficientformer.search.supernet.supernet import Supernet

SPACE = supernet_space(
    "xs", input_size=64, num_classes=5, kinds=OPEN_KINDS, expansions=(2, 3), stems=("stem_patch",)
)


BLOCKS = [[block.kind for block in stage.blocks] for stage in SPACE.largest.stages]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    built = Supernet(SPACE, layer_scale_init=0.5).eval()
    randomise_vectors(built)
    return built


def choices(space: SearchSpace) -> st.SearchStrategy[list[list[str]]]:
    return st.tuples(
        *(
            st.lists(
                st.sampled_from(space.paths(stage)),
                min_size=len(space.largest.stages[stage].blocks),
                max_size=len(space.largest.stages[stage].blocks),
            )
            for stage in range(4)
        )
    ).map(list)


def chosen(frame: Architecture, kinds: list[list[str]]) -> Architecture:
    architecture = frame
    for stage, row in enumerate(kinds):
        for position, kind in enumerate(row):
            architecture = architecture.with_block(stage, position, kind)
    return architecture


def let_through(supernet: Supernet, kinds: list[list[str]], frame: Architecture, *, alone: bool) -> None:
    """Set the draw to one path a position: by its weight, or as the one that is run alone."""
    taken = [[SPACE.paths(stage).index(kind) for kind in row] for stage, row in enumerate(kinds)]
    weights = [torch.eye(len(SPACE.paths(stage)))[row] for stage, row in enumerate(taken)]
    supernet._draw = Draw(weights, tuple(map(tuple, taken)) if alone else (), frame)


@given(kinds=choices(SPACE), alone=st.booleans(), seed=st.integers(0, 99))
def test_with_one_path_let_through_it_computes_what_the_subnetwork_computes(
    supernet: Supernet, kinds: list[list[str]], alone: bool, seed: int
) -> None:
    """At any width and expansion: the elastic supernet and what inherits from it are the same function."""
    frame = chosen(SPACE.sample(random.Random(seed)), BLOCKS) if seed else SPACE.largest
    let_through(supernet, kinds, frame, alone=alone)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mixed, inherited = supernet(images), inherit(supernet, chosen(frame, kinds))(images)
    torch.testing.assert_close(mixed, inherited, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("paths", ["soft", "sampled", "even"])
@pytest.mark.parametrize("elastic", [False, True])
def test_a_draw_is_a_function_of_seed_and_step(paths: Paths, elastic: bool) -> None:
    def drawn(step: int, seed: int) -> tuple:
        alphas = [torch.zeros(len(one.blocks), 4) for one in SPACE.largest.stages]
        found = draw(SPACE, alphas, Sampling(paths=paths, elastic=elastic), step, 0.5, seed)
        return [one.tolist() for one in found.weights], found.chosen, found.frame

    assert drawn(3, 0) == drawn(3, 0)
    assert drawn(3, 0) != drawn(5, 0)
    assert drawn(3, 0) != drawn(3, 1)
    weights, chosen, frame = drawn(3, 0)
    if paths == "soft":
        assert chosen == ()
        assert all(sum(row) == pytest.approx(1) for stage in weights for row in stage)
    else:
        assert [len(row) for row in chosen] == [len(one.blocks) for one in SPACE.largest.stages]
        assert all(value == 1 for stage in weights for row in stage for value in row)
    assert (dataclasses.replace(frame, stem="stem") == SPACE.largest) is not elastic


def test_elastic_steps_are_the_largest_the_smallest_and_all_between() -> None:
    alphas = [torch.zeros(len(one.blocks), 4) for one in SPACE.largest.stages]
    widths = [draw(SPACE, alphas, Sampling(elastic=True), step, 0.5, 0).frame.widths for step in range(200)]
    assert widths.count(SPACE.largest.widths) >= 50
    assert widths.count(SPACE.smallest().widths) >= 25
    for stage in range(4):
        assert {one[stage] for one in widths} == set(SPACE.widths(stage))


def test_without_noise_the_weights_are_the_softmax_of_alpha_over_tau() -> None:
    alphas = [torch.randn(3, 4) for _ in range(4)]
    found = draw(SPACE, alphas, Sampling(tau_start=4.0, tau_end=0.5, noise="none"), 0, 1.0, 0)
    torch.testing.assert_close(found.weights[2], (alphas[2] / 0.5).softmax(-1))


def test_a_sampled_path_is_the_likeliest_with_its_noise() -> None:
    """By Gumbel's trick the path with the greatest α + noise has probability softmax(α)."""
    alphas = [torch.tensor([[2.0, 0.0, -1.0, 0.5]]).repeat(4000, 1)]
    found = draw(SPACE, alphas, Sampling(paths="sampled"), 0, 0.3, 0)
    shares = torch.bincount(torch.tensor(found.chosen[0])) / 4000
    torch.testing.assert_close(shares, alphas[0][0].softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("noise", "mean", "lowest"),
    [("uniform", 0.5, 0.0), ("gumbel", 0.5772, -math.inf)],  # Euler's constant is Gumbel's mean
)
def test_the_noise_is_the_one_asked_for(noise: str, mean: float, lowest: float) -> None:
    drawn = noise_of(torch.zeros(100_000), noise, torch.Generator().manual_seed(0))
    assert abs(float(drawn.mean()) - mean) < 0.02
    assert float(drawn.min()) >= lowest


@pytest.mark.parametrize(("share", "tau"), [(0.0, 2.0), (0.5, math.sqrt(0.4)), (1.0, 0.2)])
def test_tau_falls_geometrically(share: float, tau: float) -> None:
    assert Sampling(2.0, 0.2).tau(share) == pytest.approx(tau)


@pytest.mark.parametrize(("paths", "learns"), [("soft", True), ("sampled", True), ("even", False)])
@pytest.mark.parametrize("elastic", [False, True])
def test_what_learns_from_the_loss(paths: Paths, learns: bool, elastic: bool) -> None:
    supernet = Supernet(SPACE)
    supernet.draw(1, 0.0, Sampling(paths=paths, elastic=elastic), 0)
    supernet(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for alpha in supernet.alphas:
        assert (alpha.grad is not None and bool(alpha.grad.abs().sum() > 0)) is learns
    gradient = supernet.head.get_submodule("classifier").weight.grad
    width = supernet._draw.frame.widths[3]
    assert gradient[:, :width].abs().sum() > 0
    assert gradient[:, width:].abs().sum() == 0  # only the first channels were there


def test_a_step_of_one_path_leaves_the_others_alone() -> None:
    supernet = Supernet(SPACE)
    supernet.draw(0, 0.0, Sampling(paths="sampled"), 0)
    supernet(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for stage, row in enumerate(supernet._draw.chosen):
        for position, taken in enumerate(row):
            for index, kind in enumerate(SPACE.paths(stage)[:-1]):
                part = supernet.part(f"stages.{stage}.blocks.{position}", kind)
                assert any(p.grad is not None for p in part.parameters()) is (index == taken)
