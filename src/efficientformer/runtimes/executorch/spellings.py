"""Operators spelled in others that XNNPACK takes from ExecuTorch, all exact up to rounding.

ExecuTorch hands XNNPACK one operator at a time, if it is of a kind and a form that is listed; the rest runs
in ExecuTorch's own kernels, many of them plain loops, with copies of tensors before and after. What
PyTorch's decompositions make of attention, means and splits is not listed. Each function here stands for an
operator of PyTorch's, has its arguments, and leaves cases that it does not cover alone by `NotImplemented`.
Norms stay outside: spelled out, LayerNorm and GroupNorm were no faster than ExecuTorch's kernels for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def spellings() -> dict[Any, Callable[..., Any]]:
    """Operator → function, for `ExportedProgram.run_decompositions`."""
    import torch

    aten = torch.ops.aten
    return {
        aten.addcmul.default: _addcmul,
        aten.expand.default: _expand,
        aten.matmul.default: _matmul,
        aten.mean.dim: _mean,
        aten.scaled_dot_product_attention.default: _attention,
        aten.select.int: _select,
        aten.split.Tensor: _split,
        aten.split_with_sizes.default: _split_with_sizes,
        aten.unbind.int: _unbind,
    }


def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """PyTorch's own has one more product, with the value 1."""
    return x + a * b if value == 1 else x + a * b * value


def _expand(x: Tensor, size: Sequence[int], *, implicit: bool = False) -> Tensor:
    """A class token's expansion to batch 1 is a copy of it."""
    same = len(size) == x.ndim and all(new in (-1, old) for new, old in zip(size, x.shape, strict=True))
    return x.reshape(x.shape) if same else NotImplemented


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Many pairs at once; PyTorch's own puts copies (`expand`) before them."""
    if a.ndim < 4 or a.shape[:-2] != b.shape[:-2]:
        return NotImplemented
    product = a.reshape(-1, *a.shape[-2:]).bmm(b.reshape(-1, *b.shape[-2:]))
    return product.reshape(*a.shape[:-1], b.shape[-1])


def _mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """XNNPACK's mean is over the last two of four dimensions, and keeps them."""
    dims = sorted(one % x.ndim for one in dim or ())
    if keepdim or dtype is not None:
        return NotImplemented
    if x.ndim == 3 and dims == [1]:
        return x.transpose(1, 2).unsqueeze(-1).mean((2, 3), keepdim=True).flatten(1)
    if x.ndim == 4 and dims == [2, 3]:
        return x.mean((2, 3), keepdim=True).flatten(1)
    return NotImplemented


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """PyTorch's own looks for rows that are masked altogether, by ten operators on the logits."""
    if causal or enable_gqa or dropout or (mask is not None and not mask.is_floating_point()):
        return NotImplemented
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * factor) @ key.transpose(-2, -1)
    return (logits if mask is None else logits + mask).softmax(-1) @ value


def _select(x: Tensor, dim: int, index: int) -> Tensor:
    dim %= x.ndim
    return x.narrow(dim, index % x.shape[dim], 1).reshape(*x.shape[:dim], *x.shape[dim + 1 :])


def _unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    return [_select(x, dim, index) for index in range(x.shape[dim])]


def _split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    whole = x.shape[dim]
    return _split_with_sizes(x, [min(size, whole - start) for start in range(0, whole, size)], dim)


def _split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]
