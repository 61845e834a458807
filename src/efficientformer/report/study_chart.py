"""The study page's charts: a bar for each variant of an experiment; all ratios on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from efficientformer.latency.measurement import Measurement
from efficientformer.report import wording
from efficientformer.report.svg import Axis, Element, canvas, draw, markup, rule, tick_text, write
from efficientformer.study.results import MIXED, Study, Trial, Tried
from efficientformer.study.verdict import (
    BAND,
    INEXPRESSIBLE,
    NO_CLAIM,
    NO_DIFFERENCE,
    REVERSED,
    SAME,
    UNDECIDED,
    Comparison,
    Ratio,
)

TONES = {
    SAME: "same",
    REVERSED: "reversed",
    NO_DIFFERENCE: "flat",
    NO_CLAIM: "unclaimed",
    MIXED: "mixed",
    UNDECIDED: "open",
    INEXPRESSIBLE: "open",
}
"""The class that colours a verdict everywhere on the page."""

_GUTTER, _BESIDE = 250, 190  # room for names on the left of wide drawings, for figures on the right
_SLIM = 600  # narrower drawings than this have names and figures above the bars


def variant_bars(tried: Tried, trial: Trial, width: float) -> Markup:
    """A bar for each variant from zero to its median, its 95 % interval as a whisker, its ratio beside it.

    The line at the end of the baseline's bar crosses the others. A variant without a receipt says so.
    """
    slim = width <= _SLIM
    top, pitch = (10, 52) if slim else (8, 32)
    height = top + pitch * len(tried.variants) + 28
    drawing = canvas(width, height, f"Median latency of each variant: {tried.title}")
    reach = max((one.interval_ms[1] for one in trial.receipts.values()), default=1.0)
    place = Axis(0, reach, 2, width - 12) if slim else Axis(0, reach, _GUTTER, width - _BESIDE)
    if trial.receipts:
        _scale(drawing, place, top, height - 22)
        if baseline := trial.receipts.get(tried.variants[0].name):
            x = place(baseline.median_ms)
            rule(drawing, "baseline", x, top, x, height - 22)
    for row, facts in enumerate(tried.variants):
        middle = top + pitch * (row + 1) - (14 if slim else 15)
        _row(drawing, facts.name, trial, place, middle, slim)
    return markup(drawing)


def _row(drawing: Element, name: str, trial: Trial, place: Axis, middle: float, slim: bool) -> None:
    receipt, comparison = trial.receipts.get(name), trial.comparison(name)
    if receipt is not None:
        _bar(drawing, receipt, comparison, place, middle)
    x, y, anchor = (0, middle - 15, "start") if slim else (_GUTTER - 12, middle + 4.5, "end")
    write(drawing, "name clear", name, x, y, anchor)
    told = _figures(receipt, comparison)
    if slim:
        write(drawing, "value clear", told, place.end + 10, middle - 15, "end")
    else:
        beside = place(receipt.interval_ms[1]) + 10 if receipt is not None else place.start
        write(drawing, "value clear", told, beside, middle + 4.5)


def _figures(receipt: Measurement | None, comparison: Comparison | None) -> str:
    if receipt is None:
        return INEXPRESSIBLE
    ms = f"{wording.ms(receipt.median_ms)} ms"
    return f"{ms} · ×{comparison.ratio.value:.2f}" if comparison and comparison.ratio else ms


def _bar(
    drawing: Element, receipt: Measurement, comparison: Comparison | None, place: Axis, middle: float
) -> None:
    (low, high), start = receipt.interval_ms, place(0)
    told = (
        f"median {wording.ms(receipt.median_ms)} ms, 95 % interval {wording.ms(low)}–{wording.ms(high)} ms, "
        f"n = {wording.whole(len(receipt.samples_ms))}, {receipt.verdict}"
    )
    tone = TONES[comparison.verdict] if comparison else "base"
    size = {"x": start, "y": middle - 9, "width": place(receipt.median_ms) - start, "height": 18, "rx": 2}
    draw(drawing, "rect", f"bar {tone}", size, title=told)
    left, right = place(low), place(high)
    whisker = f"M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 5}v10M{right:.1f} {middle - 5}v10"
    draw(drawing, "path", "whisker", {"d": whisker})


def _scale(drawing: Element, place: Axis, top: float, bottom: float) -> None:
    ticks = place.ticks(64)
    for tick in ticks:
        rule(drawing, "grid", place(tick), top, place(tick), bottom)
        text = tick_text(tick) + (" ms" if tick == ticks[-1] else "")
        write(drawing, "tick", text, place(tick), bottom + 16, "start" if tick == 0 else "middle")


_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)


def ratio_chart(study: Study, target: str, width: float) -> Markup:
    """Every pair's ratio on one logarithmic axis, with its 95 % interval; to the left of 1 is faster."""
    slim = width <= _SLIM
    groups = [(one, list(_ratios(study.of(one.number), target))) for one in study.observations]
    top, pitch, start = (24, 38, 6) if slim else (24, 21, 400)
    rows = sum(len(pairs) for _, pairs in groups)
    height = top + 34 * len(groups) + pitch * rows + 24
    drawing = canvas(width, height, "Each variant's time over its baseline's, with its 95 % interval")
    place = _ratio_axis([ratio for _, pairs in groups for _, _, ratio in pairs], start, width - 16)
    _ratio_scale(drawing, place, top, height - 22)
    down = top
    for observation, pairs in groups:
        down += 34
        title = f"{observation.number} · {observation.title}"
        write(drawing, "name clear", title, 0, down - 9)
        for name, verdict, ratio in pairs:
            down += pitch
            x, y, anchor = (0, down - 20, "start") if slim else (start - 14, down - 6, "end")
            write(drawing, "label clear", name, x, y, anchor)
            _ratio(drawing, place, ratio, verdict, down - 10, f"{name}: {ratio}, {verdict}")
    return markup(drawing)


def _ratios(experiments: Sequence[Tried], target: str) -> Iterator[tuple[str, str, Ratio]]:
    """Each pair's name, verdict and ratio."""
    for tried in experiments:
        for row in tried.trial(target).comparisons:
            if row.ratio is not None:
                yield f"{tried.name}: {row.variant}", row.verdict, row.ratio


def _ratio_axis(ratios: Sequence[Ratio], start: float, end: float) -> Axis:
    """Logarithms of ratios to places; 1 and a third more or less are always on it."""
    low = min([0.7, *(one.low for one in ratios)])
    high = max([1.4, *(one.high for one in ratios)])
    return Axis(math.log(low), math.log(high), start, end)


def _ratio_scale(drawing: Element, place: Axis, top: float, bottom: float) -> None:
    left, right = place(math.log(1 - BAND)), place(math.log(1 + BAND))
    band = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    draw(drawing, "rect", "within", band, title="within 3 %")
    last = -math.inf
    for tick in _TICKS:
        x = place(math.log(tick))
        if place.start - 1 <= x <= place.end + 1:
            rule(drawing, "unity" if tick == 1 else "grid", x, top, x, bottom)
            if x - last > 30:
                write(drawing, "tick", f"×{tick:g}", x, bottom + 16, "middle")
                last = x
    one = place(0)
    write(drawing, "tick", "← faster", one - 8, top - 8, "end")
    write(drawing, "tick", "slower →", one + 8, top - 8)


def _ratio(drawing: Element, place: Axis, ratio: Ratio, verdict: str, middle: float, told: str) -> None:
    low, value, high = (place(math.log(one)) for one in (ratio.low, ratio.value, ratio.high))
    tone = TONES[verdict]
    rule(drawing, f"reach {tone}", low, middle, high, middle)
    at = {"cx": value, "cy": middle, "r": 5}
    draw(drawing, "circle", f"point {tone}", at, title=told)
