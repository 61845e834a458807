"""Rows follow from files: whatever a file's borders cost is gone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given

from efficientformer import Architecture, Layer
from efficientformer.latency.table.rows import EMPTY, Chain, combined, name_of, recipe
from efficientformer.layers import KINDS
from tests.latency.table.made import CALL_MS, chain_ms, fake_ms
from tests.strategies import architectures, tiny


def composed(files: dict[Chain, float]) -> float:
    return sum(weight * chain_ms(chain) for chain, weight in files.items())


@given(architecture=architectures())
def test_a_row_is_the_layer_without_call_and_borders(architecture: Architecture) -> None:
    for layer in architecture.layers():
        assert composed(recipe(layer)) == pytest.approx(fake_ms(layer))


@given(architecture=architectures())
def test_chains_fit_together(architecture: Architecture) -> None:
    """What a layer gives is what the next one takes."""
    stride = {"stem": 4, "embed": 2, "block": 1}
    for layer in architecture.layers():
        for chain in recipe(layer):
            for one, following in itertools.pairwise(chain):
                by = stride[KINDS[one.kind].role]
                assert (one.height // by, one.width // by) == (following.height, following.width)
                assert one.out_width == following.in_width


@given(architecture=architectures())
def test_a_sum_of_rows_is_a_sum_of_files(architecture: Architecture) -> None:
    layers = dict.fromkeys(architecture.layers(), 1.0)
    files = combined(layers, 1.0)
    assert composed(files) == pytest.approx(CALL_MS + sum(map(fake_ms, layers)))


def test_names_tell_chains_apart() -> None:
    layers: list[Layer] = list(dict.fromkeys(tiny().layers()))
    chains: list[Chain] = [EMPTY, *((layer,) for layer in layers), *(tuple(layers[:n]) for n in range(2, 5))]
    assert len({name_of(chain) for chain in chains}) == len(chains)
    assert name_of(EMPTY) == "call"
