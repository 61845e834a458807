from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from timm.models.efficientformer import Attention as TimmAttention
from timm.models.efficientformer_v2 import Attention2dDownsample

from efficientformer import InputError
from efficientformer.model.blocks.bias import BiasTable, Grid, bias_indices, resize_bias

sides = st.integers(1, 6)
grids = st.tuples(sides, sides)


@given(sides, sides, st.sampled_from((1, 2)))
def test_bias_indices_are_row_distance_times_width_plus_column_distance(
    height: int, width: int, stride: int
) -> None:
    keys = [(row, column) for row in range(height) for column in range(width)]
    queries = [(row, column) for row, column in keys if row % stride == column % stride == 0]
    expected = [[abs(r - s) * width + abs(c - d) for s, d in keys] for r, c in queries]
    assert bias_indices(height, width, stride).tolist() == expected


@given(sides, sides)
def test_bias_indices_are_those_of_timm_and_within_the_table(height: int, width: int) -> None:
    indices = bias_indices(height, width)
    assert torch.equal(indices, indices.T)
    assert indices.unique().tolist() == list(range(height * width))
    assert torch.equal(indices, TimmAttention(8, resolution=(height, width)).attention_bias_idxs)
    halved = Attention2dDownsample(8, resolution=(height, width)).attention_bias_idxs
    assert torch.equal(bias_indices(height, width, 2), halved)


@given(grids, st.integers(1, 3))
def test_a_bias_table_of_its_own_size_is_left_alone(grid: Grid, heads: int) -> None:
    table = torch.randn(heads, grid[0] * grid[1])
    assert torch.equal(resize_bias(table, grid), table)
    assert torch.equal(resize_bias(table, grid, grid), table)


def interpolated(table: torch.Tensor, own: Grid, grid: Grid) -> np.ndarray:
    """By scipy, the first offset staying the first and the farthest the farthest."""
    axes = [np.linspace(0, 1, side) for side in own]
    points = np.meshgrid(*(np.linspace(0, 1, side) for side in grid), indexing="ij")
    values = [RegularGridInterpolator(axes, head.view(own).numpy())(tuple(points)) for head in table]
    return np.stack(values).reshape(len(table), -1)


@given(st.integers(2, 6), st.integers(2, 7), st.integers(2, 7))
def test_a_table_of_an_unknown_grid_is_taken_for_square(side: int, height: int, width: int) -> None:
    assume(height * width != side * side)  # such a one is taken for its own size
    table = torch.randn(2, side * side)
    given = resize_bias(table, (height, width)).numpy()
    assert np.allclose(given, interpolated(table, (side, side), (height, width)), atol=1e-5)


@given(st.tuples(*[st.integers(2, 6)] * 2), st.tuples(*[st.integers(2, 7)] * 2))
def test_a_table_of_a_known_grid_is_interpolated_between_its_offsets(own: Grid, grid: Grid) -> None:
    table = torch.randn(2, own[0] * own[1])
    assert np.allclose(resize_bias(table, grid, own).numpy(), interpolated(table, own, grid), atol=1e-5)


@given(grids, grids)
def test_offset_zero_stays_offset_zero(own: Grid, grid: Grid) -> None:
    table = torch.randn(2, own[0] * own[1])
    assert torch.allclose(resize_bias(table, grid, own)[:, 0], table[:, 0])


def test_a_portrait_is_not_a_landscape_of_as_many_entries() -> None:
    table = torch.randn(2, 6)
    assert not torch.equal(resize_bias(table, (3, 2), (2, 3)), table)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_table_keeps_its_number_type(dtype: torch.dtype) -> None:
    assert resize_bias(torch.zeros(1, 4, dtype=dtype), (3, 3)).dtype == dtype


@pytest.mark.parametrize(("entries", "own"), [(5, None), (6, (2, 2)), (4, (1, 3))])
def test_a_table_of_no_grid_is_refused(entries: int, own: Grid | None) -> None:
    with pytest.raises(InputError, match=f"{entries} entries is of no grid of"):
        resize_bias(torch.zeros(1, entries), (3, 3), own)


@pytest.mark.parametrize("query_stride", [1, 2])
def test_a_table_takes_another_grid_in_place(query_stride: int) -> None:
    table = BiasTable(2, (4, 6), query_stride)
    with torch.no_grad():
        table.attention_biases.normal_()
    table.attention_biases.requires_grad_(False)
    before = table.attention_biases.clone()
    table.set_grid((2, 4))
    assert torch.equal(table.attention_biases, resize_bias(before, (2, 4), (4, 6)))
    assert torch.equal(table.attention_bias_idxs, bias_indices(2, 4, query_stride))
    assert table.bias().shape == (2, 8 // query_stride**2, 8)
    assert isinstance(table.attention_biases, torch.nn.Parameter)
    assert not table.attention_biases.requires_grad


def test_indices_are_no_weights() -> None:
    assert set(BiasTable(2, (3, 3)).state_dict()) == {"attention_biases"}
