"""The page's latency charts: who takes how long, and the raw samples. Each is drawn for a width in pixels."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from efficientformer.report import wording
from efficientformer.report.story import Contender
from efficientformer.report.svg import Axis, Element, axis, canvas, draw, markup, rule, tick_text, write

GUTTER = 112  # room for names on the left; a narrow drawing has them above
SLIM = 600  # narrower drawings than this are narrow


def hue(one: Contender) -> str:
    """The class that colours a network everywhere on the page."""
    return one.name if one.name in ("slimmed", "unslimmed") else "peer"


def latency_bars(contenders: Sequence[Contender], budget_ms: float, width: float) -> Markup:
    """One bar a network from zero to its median, with p10–p90 as a whisker, and the budget across them."""
    top, pitch, start = (26, 40, GUTTER) if width > SLIM else (32, 54, 6)
    height = top + pitch * len(contenders) + 30
    drawing = canvas(width, height, "Median latency of each network against the budget")
    reach = max(budget_ms, *(one.p90_ms for one in contenders))
    place = Axis(0, reach * 1.06, start, width - 8)
    _scale(drawing, place, top, height - 24)
    for row, one in enumerate(contenders):
        middle = top + pitch * (row + 1) - 20
        _bar(drawing, one, place, middle)
        _name(drawing, one.title, place, middle + 4.5, middle - 16)
    budget_line(drawing, place(budget_ms), budget_ms, 14, height - 24, width)
    for row, one in enumerate(contenders):
        _value(drawing, one, place, top + pitch * (row + 1) - 20)
    return markup(drawing)


def _name(drawing: Element, text: str, place: Axis, beside: float, above: float, cls: str = "name") -> None:
    """What a row is called: in the gutter at one height, or where there is none, above the row at another."""
    gutter = place.start >= GUTTER
    x, y, anchor = (GUTTER - 12, beside, "end") if gutter else (0, above, "start")
    write(drawing, f"{cls} clear", text, x, y, anchor)


def _bar(drawing: Element, one: Contender, place: Axis, middle: float) -> None:
    told = (
        f"{one.title}: median {wording.ms(one.median_ms)} ms, p10–p90 {wording.ms(one.p10_ms)}–"
        f"{wording.ms(one.p90_ms)} ms, n = {wording.whole(len(one.samples_ms))}, {one.verdict}"
    )
    start, low, high = place(0), place(one.p10_ms), place(one.p90_ms)
    size = {"x": start, "y": middle - 10, "width": place(one.median_ms) - start, "height": 20, "rx": 2}
    draw(drawing, "rect", f"bar {hue(one)}", size, title=told)
    whisker = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10"
    draw(drawing, "path", "whisker", {"d": whisker})


def _value(drawing: Element, one: Contender, place: Axis, middle: float) -> None:
    start, low, high = place(0), place(one.p10_ms), place(one.p90_ms)
    inside = low - start > 74  # the text fits before the whisker begins
    text, cls = f"{wording.ms(one.median_ms)} ms", "value in" if inside else "value clear"
    write(drawing, cls, text, start + 8 if inside else high + 8, middle + 4.5)


def _scale(drawing: Element, place: Axis, top: float, bottom: float) -> None:
    """The latency axis: a thin line a tick, its label below, the unit with the last."""
    ticks = place.ticks(64)
    for tick in ticks:
        rule(drawing, "grid", place(tick), top, place(tick), bottom)
        text = tick_text(tick) + (" ms" if tick == ticks[-1] else "")
        write(
            drawing,
            "tick",
            text,
            place(tick),
            bottom + 17,
            "end" if place.end - place(tick) < 20 else "middle",
        )


def budget_line(
    drawing: Element, x: float, budget_ms: float, top: float, bottom: float, width: float
) -> None:
    """The budget, from top to bottom, named above; the name turns left near the right edge."""
    rule(drawing, "budget", x, top, x, bottom)
    left = x > width - 130
    text = f"budget {wording.ms(budget_ms)} ms"
    write(drawing, "budget", text, x - 6 if left else x + 6, top + 2, "end" if left else "start")


def histograms(contenders: Sequence[Contender], budget_ms: float, width: float) -> Markup:
    """Every sample of every network: one histogram each on a common axis, its height its own."""
    top, pitch, start = (34, 82, GUTTER) if width > SLIM else (34, 100, 6)
    height = top + pitch * len(contenders) + 26
    drawing = canvas(width, height, "How often each latency was measured, for each network")
    place = axis([*_span(contenders), budget_ms], start, width - 8, pad=0.03)
    _scale(drawing, place, top - 8, height - 24)
    budget_line(drawing, place(budget_ms), budget_ms, 14, height - 24, width)
    for row, one in enumerate(contenders):
        _histogram(drawing, one, place, top + pitch * (row + 1) - 10, 60)
    return markup(drawing)


def _span(contenders: Sequence[Contender]) -> list[float]:
    """What the axis holds: all but the slowest hundredth of each network's samples."""
    ordered = [sorted(one.samples_ms) for one in contenders]
    return [one[0] for one in ordered] + [one[int(0.99 * (len(one) - 1))] for one in ordered]


def _histogram(drawing: Element, one: Contender, place: Axis, base: float, tall: float) -> None:
    bins = max(24, int((place.end - place.start) / 5))
    counts, beyond = binned(one.samples_ms, place, bins)
    wide, most = (place.end - place.start) / bins, max(counts) or 1
    tops = "".join(f"V{base - tall * count / most:.1f}h{wide:.2f}" for count in counts)
    told = f"{one.title}: n = {wording.whole(len(one.samples_ms))}, {beyond} beyond the axis"
    heap = {"d": f"M{place.start:g} {base:g}{tops}V{base:g}Z"}
    draw(drawing, "path", f"heap {hue(one)}", heap, title=told)
    low, high, median = place(one.p10_ms), place(one.p90_ms), place(one.median_ms)
    band = {"x": low, "width": high - low, "y": base + 2, "height": 4}
    draw(drawing, "rect", f"band {hue(one)}", band, title="p10–p90")
    rule(drawing, "median", median, base - tall - 4, median, base + 8)
    many = f"n = {wording.whole(len(one.samples_ms))}"
    if place.start < GUTTER:
        _name(drawing, f"{one.title}, {many}", place, 0, base - tall - 12)
    else:
        _name(drawing, one.title, place, base - 18, 0)
        _name(drawing, many, place, base - 2, 0, "tick")
    if beyond:
        write(drawing, "tick clear", f"{wording.whole(beyond)} slower →", place.end, base - 14, "end")


def binned(samples: Sequence[float], place: Axis, bins: int) -> tuple[list[int], int]:
    """How many samples fall in each of some equal bins of an axis, and how many beyond its end."""
    counts, beyond = [0] * bins, 0
    for sample in samples:
        index = int((sample - place.low) / (place.high - place.low) * bins)
        if index < bins:
            counts[max(0, index)] += 1
        else:
            beyond += 1
    return counts, beyond
