"""The learned attention bias: a table per head and offset, for any grid of tokens (LeViT's [code])."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.errors import InputError

Grid = tuple[int, int]


class BiasTable(nn.Module):
    """A mixer with a bias per head and offset.

    `attention_biases` is (heads, H·W): the bias of two tokens |Δrow| rows and |Δcolumn| columns apart stands
    at |Δrow|·W + |Δcolumn|. Where `query_stride` is 2, queries stand on every second row and column.
    """

    attention_bias_idxs: Tensor

    def __init__(self, heads: int, grid: Grid, query_stride: int = 1) -> None:
        super().__init__()
        self.grid, self.query_stride = grid, query_stride
        self.attention_biases = nn.Parameter(torch.zeros(heads, grid[0] * grid[1]))
        self.register_buffer("attention_bias_idxs", bias_indices(*grid, query_stride), persistent=False)

    def bias(self) -> Tensor:
        """The bias added to the logits: (heads, queries, keys)."""
        return self.attention_biases[:, self.attention_bias_idxs]

    def set_grid(self, grid: Grid) -> None:
        """Take another grid of tokens, in place; the table is interpolated."""
        if grid == self.grid:
            return
        table = self.attention_biases
        resized = resize_bias(table.detach(), grid, self.grid)
        self.attention_biases = nn.Parameter(resized.clone(), table.requires_grad)
        indices = bias_indices(*grid, self.query_stride)
        self.attention_bias_idxs = indices.to(self.attention_bias_idxs.device)
        self.grid = grid


def bias_indices(height: int, width: int, query_stride: int = 1) -> Tensor:
    """(queries, keys) indices into a table for a grid of tokens: |Δrow|·width + |Δcolumn|."""
    rows, columns = torch.arange(height), torch.arange(width)
    keys = torch.cartesian_prod(rows, columns)
    queries = torch.cartesian_prod(rows[::query_stride], columns[::query_stride])
    apart = [(queries[:, None, axis] - keys[:, axis]).abs() for axis in (0, 1)]
    return apart[0] * width + apart[1]


def resize_bias(table: Tensor, grid: Grid, own: Grid | None = None) -> Tensor:
    """An attention-bias table (heads, H·W) for another grid; the same one at its own size.

    Offsets are scaled with the resolution (bilinear; offset 0 stays offset 0, the farthest the farthest).

    Args:
        table: as learned.
        grid: (height, width) in tokens it is wanted for.
        own: the grid it was learned on. Where that is unknown, a table of as many entries as are wanted is
            taken to be of the wanted grid, any other of a square one.

    Raises:
        InputError: if the table is not of its own grid.
    """
    heads, entries = table.shape
    if own is None:
        own = grid if entries == grid[0] * grid[1] else (round(entries**0.5),) * 2
    if own[0] * own[1] != entries or not heads * entries:
        raise InputError(f"an attention-bias table of {entries} entries is of no grid of {own[0]}×{own[1]}")
    if own == grid:
        return table
    square = table.view(1, heads, *own).float()
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=True)
    return resized.view(heads, -1).to(table.dtype)
