import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.architecture import Architecture
from efficientformer.latency.untrained import randomise_vectors
from efficientformer.search.inherit import inherit
from efficientformer.search.space import SearchSpace, supernet_space
from efficientformer.search.supernet import Supernet, Temperature

SPACE = supernet_space("xs", input_size=64, num_classes=5)


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


def chosen(space: SearchSpace, kinds: list[list[str]]) -> Architecture:
    architecture = space.largest
    for stage, row in enumerate(kinds):
        for position, kind in enumerate(row):
            architecture = architecture.with_block(stage, position, kind)
    return architecture


def let_through(supernet: Supernet, kinds: list[list[str]]) -> None:
    """Set the path weights to one path a position."""
    supernet._weights = [
        torch.stack([torch.eye(len(paths))[paths.index(kind)] for kind in row])
        for row, paths in zip(kinds, map(SPACE.paths, range(4)), strict=True)
    ]


@given(kinds=choices(SPACE))
def test_with_one_path_let_through_it_computes_what_the_subnetwork_computes(
    supernet: Supernet, kinds: list[list[str]]
) -> None:
    let_through(supernet, kinds)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mixed, alone = supernet(images), inherit(supernet, chosen(SPACE, kinds))(images)
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-5)


def test_a_draw_is_a_function_of_seed_and_step(supernet: Supernet) -> None:
    def drawn(step: int, seed: int) -> list[torch.Tensor]:
        supernet.draw(step, 0.5, Temperature(), seed)
        return [weights.detach().clone() for weights in supernet._weights]

    first = drawn(3, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(3, 0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, drawn(4, 0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, drawn(3, 1), strict=True))
    for weights in first:
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)))


def test_without_noise_the_weights_are_the_softmax_of_alpha_over_tau() -> None:
    supernet = Supernet(SPACE)
    with torch.no_grad():
        supernet.alphas[2].copy_(torch.randn_like(supernet.alphas[2]))
    supernet.draw(0, 1.0, Temperature(start=4.0, end=0.5, noise="none"), 0)
    torch.testing.assert_close(supernet._weights[2], (supernet.alphas[2] / 0.5).softmax(-1))


@pytest.mark.parametrize(
    ("noise", "mean", "lowest"),
    [("uniform", 0.5, 0.0), ("gumbel", 0.5772, -math.inf)],  # Euler's constant is Gumbel's mean
)
def test_the_noise_is_the_one_asked_for(noise: str, mean: float, lowest: float) -> None:
    from efficientformer.search.supernet import _noise

    drawn = _noise(torch.zeros(100_000), noise, torch.Generator().manual_seed(0))
    assert abs(float(drawn.mean()) - mean) < 0.02
    assert float(drawn.min()) >= lowest


@pytest.mark.parametrize(("share", "tau"), [(0.0, 2.0), (0.5, math.sqrt(0.4)), (1.0, 0.2)])
def test_tau_falls_geometrically(share: float, tau: float) -> None:
    assert Temperature(2.0, 0.2).at(share) == pytest.approx(tau)


def test_alpha_learns_from_the_loss() -> None:
    supernet = Supernet(SPACE)
    supernet.draw(0, 0.0, Temperature(), 0)
    supernet(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(alpha.grad is not None and alpha.grad.abs().sum() > 0 for alpha in supernet.alphas)
