"""Rows between rows: exact for what is bilinear, refused outside, with the error seen on known rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from efficientformer import Layer
from efficientformer.latency.table.interpolate import left_out_error, neighbours, sub_grid

WIDTHS = (16, 32, 48, 64, 80, 96, 112)


def embed(inward: int, outward: int) -> Layer:
    return Layer("embed", inward, outward, 8, 8)


def pool(width: int, expansion: int = 4, side: int = 8) -> Layer:
    return Layer("pool", width, width, side, side, expansion, "gelu")


def stem(width: int) -> Layer:
    return Layer("stem", 3, width, 64, 64, activation="relu")


def head(width: int) -> Layer:
    return Layer("head", width, 10, 2, 2, heads=1)


def bilinear(layer: Layer) -> float:
    return 1 + 0.01 * layer.in_width + 0.02 * layer.out_width + 1e-3 * layer.in_width * layer.out_width


def linear(layer: Layer) -> float:
    return 0.5 + 0.01 * layer.in_width + 0.03 * layer.out_width


@given(inward=st.integers(16, 112), outward=st.integers(16, 112))
def test_bilinear_rows_are_met_exactly(inward: int, outward: int) -> None:
    known = [embed(one, other) for one in WIDTHS[::3] for other in WIDTHS[::3]]
    layer = embed(inward, outward)
    assume(layer not in known)
    weights = neighbours(layer, known)
    assert weights is not None
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) > 0
    assert sum(share * bilinear(one) for one, share in weights.items()) == pytest.approx(bilinear(layer))


@given(width=st.integers(16, 112))
def test_blocks_are_met_on_a_parabola(width: int) -> None:
    """What blocks compute: matrices grow with the square of the width, activations with the width."""

    def cost(layer: Layer) -> float:
        return 0.3 + 0.01 * layer.in_width + 2e-4 * layer.in_width**2

    known = [pool(one) for one in (16, 32, 64, 96, 112)]
    layer = pool(width)
    assume(layer not in known)
    weights = neighbours(layer, known)
    assert weights is not None
    assert len(weights) == 3
    assert sum(weights.values()) == pytest.approx(1)
    assert sum(share * cost(one) for one, share in weights.items()) == pytest.approx(cost(layer))


def test_a_block_between_two_rows_alone_lies_on_the_line() -> None:
    assert neighbours(pool(24), [pool(16), pool(32)]) == {pool(16): 0.5, pool(32): 0.5}


@pytest.mark.parametrize("make", [stem, head])
def test_layers_with_one_width_are_met_along_it(make: Callable[[int], Layer]) -> None:
    weights = neighbours(make(24), [make(16), make(32), make(64)])
    assert weights == {make(16): 0.5, make(32): 0.5}
    assert neighbours(make(40), [make(16), make(32), make(64)]) == {make(32): 0.75, make(64): 0.25}


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        (pool(128), [pool(16), pool(32), pool(64)]),  # outside
        (pool(8), [pool(16), pool(32), pool(64)]),
        (pool(24), []),
        (pool(24), [pool(16, 2), pool(32, 2)]),  # another expansion
        (pool(24), [pool(16, side=4), pool(32, side=4)]),  # another grid
        (pool(24), [dataclasses.replace(pool(width), activation="relu") for width in (16, 32)]),
        (pool(24), [dataclasses.replace(pool(width), kind="ffn") for width in (16, 32)]),
        (embed(24, 24), [embed(16, 16), embed(16, 32), embed(32, 16)]),  # a corner is missing
        (head(24), [dataclasses.replace(head(width), out_width=100) for width in (16, 32)]),
    ],
)
def test_without_enclosing_rows_there_is_nothing(layer: Layer, known: list[Layer]) -> None:
    assert neighbours(layer, known) is None


def test_a_layer_is_never_its_own_neighbour() -> None:
    assert neighbours(pool(32), [pool(16), pool(32), pool(48)]) == {pool(16): 0.5, pool(48): 0.5}


def test_the_smallest_rectangle_is_taken() -> None:
    known = [embed(one, other) for one in WIDTHS for other in WIDTHS if (one, other) != (48, 48)]
    weights = neighbours(embed(48, 48), known)
    assert weights in ({embed(48, 32): 0.5, embed(48, 64): 0.5}, {embed(32, 48): 0.5, embed(64, 48): 0.5})


def test_the_error_is_what_left_out_rows_are_off_by() -> None:
    known = [stem(width) for width in WIDTHS]
    assert left_out_error(stem(24), known, linear) == pytest.approx(0)

    def bent(layer: Layer) -> float:
        return {16: 1.5, 32: 2.0, 48: 1.0, 64: 1.5, 80: 1.0, 96: 1.5, 112: 2.0}[layer.out_width]

    off = (-0.75, 0.75, -0.5, 0.5, 0.0)  # the mean of both neighbours, less the row, of 32 to 96
    expected = math.sqrt(sum(one**2 for one in off) / len(off))
    assert left_out_error(stem(24), known, bent) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 2, 3, 4])
def test_too_few_rows_tell_no_error(count: int) -> None:
    assert left_out_error(pool(24), [pool(width) for width in WIDTHS[:count]], linear) is None


def test_the_sub_grid_keeps_all_but_most_down_samplings() -> None:
    blocks = [pool(width) for width in WIDTHS]
    pairs = [embed(one, other) for one in WIDTHS for other in WIDTHS]
    kept = sub_grid([*blocks, *pairs, *blocks])
    assert kept == [*blocks, *(embed(one, other) for one in WIDTHS[::3] for other in WIDTHS[::3])]
    assert all(neighbours(layer, kept) for layer in pairs if layer not in kept)


def test_the_sub_grid_keeps_the_outermost_widths() -> None:
    pairs = [embed(one, other) for one in WIDTHS[:6] for other in WIDTHS[:2]]
    kept = sub_grid(pairs)
    assert {layer.in_width for layer in kept} == {16, 64, 96}
    assert {layer.out_width for layer in kept} == {16, 32}
