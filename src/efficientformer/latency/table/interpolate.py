"""Layers without a row, from rows of the same layer at other widths, as what they compute grows with these.

A block's matrices grow with the square of its width: its row lies on the parabola through the two measured
widths around and the next one. A stem or a head grows with its one width, a down-sampling with each of its
two: its row comes from the four corners of the smallest rectangle of measured widths around it. How far that
is off is seen on the rows that are known: each is left out and predicted from the others.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Collection, Iterable
from itertools import product

from efficientformer.layers import KINDS, Layer, Role

Weights = dict[Layer, float]
"""Known layers and their shares in another layer's row; they sum to 1."""

Span = tuple[int, int]
_NEAR = 3  # known widths looked at on each side
FEWEST = 3  # rows that were left out and predicted, to speak of an error


@functools.cache
def family(layer: Layer) -> Layer:
    """What layers that differ in widths alone have in common."""
    return _at(layer, (0, 0))


def neighbours(layer: Layer, known: Collection[Layer]) -> Weights | None:
    """The known layers around a layer with their shares, which sum to 1; None if they do not enclose it."""
    points = {_point(one): one for one in known if one != layer and family(one) == family(layer)}
    across, along = _point(layer)
    rectangles = [
        (i, j)
        for i, j in product(_around(across, {x for x, _ in points}), _around(along, {y for _, y in points}))
        if all(corner in points for corner in product(i, j))
    ]
    if not rectangles:
        return None
    i, j = min(rectangles, key=lambda spans: (sum(high - low for low, high in spans), spans))
    if KINDS[layer.kind].role == "block":
        widths = _parabola(across, i, {x for x, _ in points})
        return {points[width, along]: share for width, share in widths.items() if share}
    weights: Weights = {}
    for (x, share), (y, other) in product(_shares(across, i), _shares(along, j)):
        if share * other:
            weights[points[x, y]] = weights.get(points[x, y], 0.0) + share * other
    return weights


def left_out_error(layer: Layer, known: Collection[Layer], row_ms: Callable[[Layer], float]) -> float | None:
    """Root mean square of the errors with which a layer's family predicts its own rows, in milliseconds.

    Relative errors would be those of its least rows, which are all noise. Each row of the family is predicted
    from the others where they enclose it; their distances are twice those of a real gap, so the error is
    rather too large. None if fewer than three can be.
    """
    members = [one for one in known if family(one) == family(layer)]
    errors = []
    for one in members:
        if weights := neighbours(one, members):
            met = sum(share * row_ms(other) for other, share in weights.items())
            errors.append((met - row_ms(one)) ** 2)
    return math.sqrt(statistics.fmean(errors)) if len(errors) >= FEWEST else None


def to_measure(layers: Iterable[Layer], every: int) -> list[Layer]:
    """The layers of a space whose rows are measured, for the rest to be interpolated.

    Args:
        layers: of the space.
        every: which widths of blocks, stems and heads; of down-samplings, every third on each side at most.
    """
    return sub_grid(sub_grid(layers, every, roles=("stem", "block", "head")), max(3, every))


def sub_grid(layers: Iterable[Layer], every: int = 3, roles: Collection[Role] = ("embed",)) -> list[Layer]:
    """The layers to measure: all but down-samplings of widths between every third, whose pairs are many.

    Args:
        layers: of a search space.
        every: which widths of a kind and grid stay, on each side; the last does too.
        roles: of the layers that are thinned out.
    """
    layers = list(dict.fromkeys(layers))
    sides: dict[tuple[Layer, int], set[int]] = {}
    for layer in layers:
        for side, width in enumerate(_point(layer)):
            sides.setdefault((family(layer), side), set()).add(width)
    kept = {key: _every(sorted(widths), every) for key, widths in sides.items()}

    def stays(layer: Layer) -> bool:
        return KINDS[layer.kind].role not in roles or all(
            width in kept[family(layer), side] for side, width in enumerate(_point(layer))
        )

    return [layer for layer in layers if stays(layer)]


def _every(widths: list[int], every: int) -> set[int]:
    return {*widths[::every], widths[-1]}


def _point(layer: Layer) -> tuple[int, int]:
    """The widths that vary: of a block or head the one it takes, of a stem the one it gives, or both."""
    role = KINDS[layer.kind].role
    return (0 if role == "stem" else layer.in_width, layer.out_width if role in ("stem", "embed") else 0)


def _at(layer: Layer, point: tuple[int, int]) -> Layer:
    """The layer with other widths, as `_point` gives them."""
    match KINDS[layer.kind].role:
        case "stem":
            return dataclasses.replace(layer, out_width=point[1])
        case "head":
            return dataclasses.replace(layer, in_width=point[0])
        case "embed":
            return dataclasses.replace(layer, in_width=point[0], out_width=point[1])
    return dataclasses.replace(layer, in_width=point[0], out_width=point[0])


def _around(value: int, known: set[int]) -> list[Span]:
    """Pairs of known values that enclose a value, itself twice if it is known."""
    below = sorted(one for one in known if one < value)[-_NEAR:]
    above = sorted(one for one in known if one > value)[:_NEAR]
    return [(value, value)] * (value in known) + list(product(below, above))


def _parabola(value: int, span: Span, known: set[int]) -> dict[int, float]:
    """The ends of a span and the nearest value outside, with their shares in a value between (Lagrange).

    The ends alone, where there is no other.
    """
    outside = [one for one in known if not span[0] <= one <= span[1]]
    nodes = [*span, *sorted(outside, key=lambda one: (abs(one - value), one))[:1]]
    return {
        one: math.prod((value - other) / (one - other) for other in nodes if other != one) for one in nodes
    }


def _shares(value: int, span: Span) -> list[tuple[int, float]]:
    """The ends of a span with their shares in a value between."""
    low, high = span
    if low == high:
        return [(low, 1.0)]
    share = (value - low) / (high - low)
    return [(low, 1 - share), (high, share)]
