"""The chart of a search: latency across, accuracy upwards, and below it what was measured on the way."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from efficientformer.report import wording
from efficientformer.report.charts import budget_line
from efficientformer.report.story import Contender
from efficientformer.report.svg import (
    Axis,
    Element,
    axis,
    canvas,
    draw,
    marker,
    markup,
    rule,
    tick_text,
    write,
)
from efficientformer.report.trail import Check, Point, Trail

TOP, PLOT, LANE, ROW = 44, 270, 40, 24
DEEP, DEEPEST = 1.5, 8.0  # how far below the path the axis goes: in spans of the path, or in points
DENSE = 28  # less room than so many pixels a step, and markers are drawn smaller


@dataclass(frozen=True)
class _Frame:
    """A drawing with its two axes."""

    drawing: Element
    x: Axis
    y: Axis
    width: float
    bottom: float
    size: float


def search_chart(
    trail: Trail, file: Contender, predicted_ms: float, budget_ms: float, width: float
) -> Markup:
    """The path, what was turned down, and the measurements.

    Args:
        trail: the search.
        file: the exported file's receipt.
        predicted_ms: what the table said of the network found.
        budget_ms: the budget.
        width: of the drawing, in pixels.
    """
    frame = _frame(trail, file, budget_ms, width)
    _grid(frame, trail)
    _branches(frame, trail)
    budget_line(frame.drawing, frame.x(budget_ms), budget_ms, TOP - 14, frame.bottom, width)
    _path(frame, trail)
    _lane(frame, trail, file, predicted_ms)
    return markup(frame.drawing)


def _frame(trail: Trail, file: Contender, budget_ms: float, width: float) -> _Frame:
    bottom = TOP + PLOT + LANE + ROW * (len(trail.checks) + 1) + 8
    label = f"The search: {len(trail.steps)} steps by predicted latency and accuracy, and what was measured"
    times = [point.latency_ms for point in (*trail.path, *trail.turned_down)]
    times += [ms for check in trail.checks for ms in (check.predicted_ms, check.measured_ms)]
    x = axis([*times, budget_ms, file.p10_ms, file.p90_ms], 58, width - 14, pad=0.08)
    size = 1.0 if DENSE * len(trail.path) < width else 0.7
    return _Frame(canvas(width, bottom + 40, label), x, _accuracy_axis(trail), width, bottom, size)


def _accuracy_axis(trail: Trail) -> Axis:
    path = [100 * point.accuracy for point in trail.path]
    floor = min(path) - max(DEEP * (max(path) - min(path)), DEEPEST)
    others = [max(floor, 100 * point.accuracy) for point in trail.turned_down]
    return axis([*path, *others], TOP + PLOT, TOP, pad=0.07)


def _grid(frame: _Frame, trail: Trail) -> None:
    drawing, x, y = frame.drawing, frame.x, frame.y
    for tick in x.ticks(64):
        rule(drawing, "grid", x(tick), TOP, x(tick), frame.bottom)
        write(drawing, "tick", tick_text(tick), x(tick), frame.bottom + 17, "middle")
    for tick in (tick for tick in y.ticks(44) if tick <= 100):
        rule(drawing, "grid", x.start, y(tick), x.end, y(tick))
        write(drawing, "tick", f"{tick_text(tick)} %", x.start - 10, y(tick) + 4, "end")
    write(drawing, "tick", "latency, ms", x.end, frame.bottom + 35, "end")
    write(drawing, "tick", f"accuracy on {trail.start.images} search images", 0, 14)


def _at(frame: _Frame, point: Point) -> tuple[float, float]:
    """Where a point is drawn: what lies below the axis, at its edge."""
    return frame.x(point.latency_ms), min(frame.y(100 * point.accuracy), frame.y.start - 6)


def told(point: Point) -> str:
    """A point in words."""
    name = f"step {point.place}: {point.option.action}" if point.option else "start: the unslimmed network"
    return (
        f"{name} · predicted {wording.ms(point.latency_ms)} ms at the last scale · "
        f"accuracy {wording.percent(point.accuracy)} %"
    )


def _kind(point: Point) -> str:
    return point.option.action.kind if point.option else "start"


def _branches(frame: _Frame, trail: Trail) -> None:
    """What was turned down, joined to the network at which the choice was made."""
    for point in trail.turned_down:
        x, y = _at(frame, point)
        rule(frame.drawing, "branch", *_at(frame, trail.path[point.place - 1]), x, y)
        marker(frame.drawing, _kind(point), x, y, "open", f"turned down at {told(point)}", frame.size)


def _path(frame: _Frame, trail: Trail) -> None:
    places = [_at(frame, point) for point in trail.path]
    for part, cls in ((places[: trail.chosen + 1], "trail"), (places[trail.chosen :], "trail beyond")):
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in part)
        draw(frame.drawing, "path", cls, {"d": f"M{line}"})
    x, y = places[trail.chosen]
    draw(frame.drawing, "circle", "halo", {"cx": x, "cy": y, "r": 11 * frame.size})
    for point, (x, y) in zip(trail.path, places, strict=True):
        marker(
            frame.drawing,
            _kind(point),
            x,
            y,
            "after" if point.place > trail.chosen else "",
            told(point),
            frame.size,
        )
    _numbers(frame, trail, places)


def _numbers(frame: _Frame, trail: Trail, places: list[tuple[float, float]]) -> None:
    """The steps' numbers above their points, as many as fit; the two ends of the path come first."""
    taken: list[float] = []
    for place in dict.fromkeys((trail.chosen, 0, *range(len(places)))):
        x, y = places[place]
        text, room = (str(place), 18) if place else ("start", 34)
        if all(abs(x - other) >= room for other in taken):
            taken.append(x)
            cls = "number chosen" if place == trail.chosen else "number"
            write(frame.drawing, cls, text, x, y - 15, "middle")


def _lane(frame: _Frame, trail: Trail, file: Contender, predicted_ms: float) -> None:
    """Below the path: each network that was measured, from what was predicted to what it took."""
    top = TOP + PLOT + LANE
    rule(frame.drawing, "divide", 0, top - 26, frame.width, top - 26)
    write(frame.drawing, "tick clear", "predicted → measured", 0, top - 8)
    middles = [top + ROW * (row + 0.5) for row in range(len(trail.checks) + 1)]
    for check, middle in zip(trail.checks, middles, strict=False):
        name = f"step {check.place}" if check.place else "start"
        _measured(frame, check, name, middle, (check.measured_ms, check.measured_ms))
    last = Check(trail.chosen, predicted_ms, file.median_ms, trail.last_scale, trail.last_scale)
    _measured(frame, last, "file", middles[-1], (file.p10_ms, file.p90_ms))


def _measured(frame: _Frame, check: Check, name: str, y: float, spread: tuple[float, float]) -> None:
    """One line of the lane; only the file's has a spread."""
    final, drawing = name == "file", frame.drawing
    before, after, low, high = map(frame.x, (check.predicted_ms, check.measured_ms, *spread))
    text = (
        f"{name}: predicted {wording.ms(check.predicted_ms)} ms, measured {wording.ms(check.measured_ms)} ms "
        f"({wording.change(check.measured_ms / check.predicted_ms)})"
    )
    write(drawing, "name" if final else "tick", name, frame.x.start - 10, y + 4, "end")
    rule(drawing, "gap", before, y, after, y)
    if final:
        draw(drawing, "path", "spread", {"d": f"M{low:.1f} {y:g}H{high:.1f}"}, title="p10–p90")
    draw(drawing, "circle", "foretold", {"cx": before, "cy": y, "r": 4}, title=text)
    marker(drawing, "measured", after, y, "final" if final else "", text)
    _beside(frame, wording.ms(check.measured_ms), y, after, (low, high), leftwards=after < before)


def _beside(
    frame: _Frame, text: str, y: float, x: float, spread: tuple[float, float], *, leftwards: bool
) -> None:
    """A measurement's figure, on the side away from its prediction; above it where that side is too short."""
    beside = min(x, spread[0]) - 11 if leftwards else max(x, spread[1]) + 11
    if frame.x.start < beside - 36 * leftwards and beside + 36 * (not leftwards) < frame.width:
        write(frame.drawing, "tick clear", text, beside, y + 4, "end" if leftwards else "start")
    else:
        write(frame.drawing, "tick clear", text, x, y - 9, "middle")
