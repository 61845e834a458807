"""A handful of lines that draw SVG: elements, an axis, markers. Colours come from classes in page.css.

No plotting library: the page holds few charts, wants them in its own type and colours, dark and light, and
must stay one file that loads nothing. ElementTree does the escaping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

Element = ElementTree.Element


def canvas(width: float, height: float, label: str) -> Element:
    """An empty drawing; the label says what it shows to those who cannot see it."""
    size = f"0 0 {width:g} {height:g}"
    return Element("svg", {"viewBox": size, "width": f"{width:g}", "role": "img", "aria-label": label})


def draw(
    parent: Element, tag: str, cls: str, at: Mapping[str, float | str], text: str = "", title: str = ""
) -> Element:
    """Add an element.

    Args:
        parent: what it is drawn in.
        tag: `line`, `circle`, `path`, …
        cls: its classes.
        at: its other attributes.
        text: what it says, for `text`.
        title: what hovering tells.
    """
    written = {key: _written(value) for key, value in at.items()}
    element = ElementTree.SubElement(parent, tag, {"class": cls, **written})
    element.text = text or None
    if title:
        ElementTree.SubElement(element, "title").text = title
    return element


def write(parent: Element, cls: str, text: str, x: float, y: float, anchor: str = "start") -> None:
    """Add a line of text; the anchor says which of its ends, or its `middle`, is at x."""
    draw(parent, "text", cls, {"x": x, "y": y, "text-anchor": anchor}, text)


def rule(parent: Element, cls: str, x1: float, y1: float, x2: float, y2: float) -> None:
    """Add a straight line."""
    draw(parent, "line", cls, {"x1": x1, "y1": y1, "x2": x2, "y2": y2})


def markup(drawing: Element) -> Markup:
    """The drawing for a template, as it is."""
    return Markup(ElementTree.tostring(drawing, encoding="unicode"))


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Axis:
    """A linear map from values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, apart: float) -> list[float]:
        """Round values at least so many units of length apart."""
        least = (self.high - self.low) * apart / abs(self.end - self.start)
        size = 10.0 ** math.floor(math.log10(least))
        step = next(one for one in (size, 2 * size, 5 * size, 10 * size) if one >= least * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def axis(values: list[float], start: float, end: float, pad: float = 0.04) -> Axis:
    """An axis that holds some values with a little room at both ends, even if they are all the same."""
    low, high = min(values), max(values)
    room = pad * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - room, high + room, start, end)


def tick_text(value: float) -> str:
    """A tick's label: no more figures than it has."""
    return f"{value:.10g}"


_CROSS = "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z"
MARKERS = {
    "start": "M0-6A6 6 0 1 1 0 6A6 6 0 1 1 0-6Z",
    "remove_attention": "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z",
    "remove_block": "M-4.6-4.6H4.6V4.6H-4.6Z",
    "narrow_stage": "M0-5.6L5.6 4.6H-5.6Z",
    "replace_block": "M-5.4-2.6H5.4V2.6H-5.4Z",
    "narrow_mlp": "M0 5.6L-5.6-4.6H5.6Z",
    "change_activation": _CROSS,
    "change_stem": _CROSS,
    "shrink_input": _CROSS,
    "several": "M0-6L5.2-3V3L0 6L-5.2 3V-3Z",
    "measured": "M0-6L6 0L0 6L-6 0Z",
}
"""Shapes, so that kinds are told apart without colours: circle, square, triangles, bar, cross, hexagon,
diamond."""


def marker(
    parent: Element, kind: str, x: float, y: float, cls: str = "", title: str = "", size: float = 1.0
) -> Element:
    """One of `MARKERS` at a place."""
    place = f"translate({_written(x)} {_written(y)})" + (f" scale({size:g})" if size != 1 else "")
    shape = MARKERS.get(kind, MARKERS["remove_block"])
    return draw(parent, "path", f"mark {kind} {cls}".strip(), {"d": shape, "transform": place}, title=title)


def sample(kind: str, cls: str = "") -> Markup:
    """A marker alone, for a legend."""
    drawing = Element("svg", {"viewBox": "-8 -8 16 16", "width": "16", "height": "16", "aria-hidden": "true"})
    marker(drawing, kind, 0, 0, cls)
    return markup(drawing)
