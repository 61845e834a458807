"""Multiply-accumulates of one operator, where its runtime tells the shapes that it ran on."""

from __future__ import annotations

import math
import re

from efficientformer.runtimes import Operator

_PRODUCTS = ("Gemm", "MatMul", "FusedMatMul", "FusedGemm")
_CONVOLUTIONS = ("Conv", "FusedConv")


def macs_of(operator: Operator) -> int | None:
    """Counted from shapes written `1×8×32×49, 8×49×49 → 1×8×49×49`; None where they are not, or mean nothing.

    Only for kinds whose count follows from shapes alone: ONNX's convolutions and matrix products.
    """
    taken, arrow, given = operator.detail.partition(" → ")
    inputs, outputs = _shapes(taken), _shapes(given)
    if not arrow or len(inputs) < 2 or len(outputs) != 1:
        return None
    out, (first, second) = outputs[0], inputs[:2]
    if operator.kind in _CONVOLUTIONS and len(second) == len(out) >= 3:
        return math.prod(out) * math.prod(second[1:])
    if operator.kind in _PRODUCTS and len(out) >= 2:
        return math.prod(out) * _summed(first, out)
    return None


def _summed(first: tuple[int, ...], out: tuple[int, ...]) -> int:
    """How long a product's sums are: the first matrix's other side, be it transposed or not."""
    return math.prod(first[-2:]) // out[-2] if len(first) > 1 else first[-1]


def _shapes(text: str) -> list[tuple[int, ...]]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"\d+(×\d+)*", part) for part in parts):
        return []
    return [tuple(map(int, part.split("×"))) for part in parts]
