"""A profile's drawings: the inference as a strip from stages down to operators, and a bar for each block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from efficientformer.profile.kinds import SORTS
from efficientformer.profile.result import NOWHERE, BlockTime, Placed, Profile
from efficientformer.report import wording
from efficientformer.report.svg import Axis, Element, canvas, draw, markup, rule, tick_text, write

GUTTER, SLIM = 148, 600  # room for names on the left; a narrow drawing has them above
_LETTER = 6.7  # pixels of a letter at 12 px, about
_ROW, _GAP = 30, 2

Drawing = Callable[[Profile, float], Markup]
"""Draws a profile at a width in pixels."""

Part = tuple[str, float, str, str]
"""A piece of a row: its label, milliseconds, class, and what hovering tells."""


def slug(sort: str) -> str:
    """The class that colours a sort of work; blocks that were timed alone have none."""
    return f"sort-{sort.replace(' ', '-')}" if sort in SORTS else "sort-whole"


def used_sorts(profile: Profile) -> list[str]:
    """The sorts of work that there are, in the order of the legend."""
    return [sort for sort in SORTS if any(one.sort == sort for one in profile.operators)]


def strip(profile: Profile, width: float) -> Markup:
    """The whole inference from left to right: stages, their blocks, and the blocks' operators."""
    rows = [_stages(profile), _blocks(profile)]
    if profile.operators:
        rows.append(_operators(profile))
    drawing = canvas(
        width, len(rows) * (_ROW + _GAP) + 26, "The inference, split by stage, block and operator"
    )
    place = Axis(0, profile.sum_ms or 1.0, 0, width)
    for index, row in enumerate(rows):
        _row(drawing, row, place, index * (_ROW + _GAP))
    _scale(drawing, place, 0, len(rows) * (_ROW + _GAP) + 2)
    return markup(drawing)


def _row(drawing: Element, row: Iterable[Part], place: Axis, top: float) -> None:
    at = 0.0
    for label, ms, cls, told in row:
        start, end = place(at), place(at + ms)
        at += ms
        size = {"x": start, "y": top, "width": max(0.3, end - start - 0.7), "height": _ROW}
        draw(drawing, "rect", f"part {cls}", size, title=told)
        if len(label) * _LETTER < end - start - 6:
            write(drawing, f"inside {cls}", label, (start + end) / 2, top + _ROW / 2 + 4, "middle")


def _stages(profile: Profile) -> list[Part]:
    groups = itertools.groupby(_by_place(profile), key=lambda one: stage_of(one.piece.name))
    sums = [(name, sum(one.ms for one in group)) for name, group in groups]
    return [(name, ms, "sort-stage", _told(name, ms, profile)) for name, ms in sums]


def _blocks(profile: Profile) -> list[Part]:
    return [
        (_short(one.piece.name), one.ms, "sort-block", _told(_named(one), one.ms, profile))
        for one in _by_place(profile)
    ]


def _operators(profile: Profile) -> list[Part]:
    """Under their blocks, so that those whose blocks are not known come last."""
    order = {one.piece.name: index for index, one in enumerate(_by_place(profile))}
    operators = sorted(profile.operators, key=lambda one: order[one.block])
    return [
        (one.operator.kind, one.ms, slug(one.sort), _told(operator_text(one), one.ms, profile))
        for one in operators
    ]


def _by_place(profile: Profile) -> Sequence[BlockTime]:
    return [one for one in profile.blocks if one.ms > 0]


def operator_text(one: Placed) -> str:
    """An operator in words: its kind, where it is, what the runtime tells of it."""
    inside = f", {one.inside}" if one.inside else ""
    detail = f": {one.operator.detail}" if one.operator.detail else ""
    return f"{one.where}{inside}{detail}"


def stage_of(block: str) -> str:
    """The stage of a block's name: `stages.2` of `stages.2.blocks.1`, `blocks.2` of `blocks.2.0`."""
    parts = block.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0] or NOWHERE


def _short(block: str) -> str:
    """A block's name below its stage's."""
    return block.removeprefix(stage_of(block)).removeprefix(".").removeprefix("blocks.") or block


def _named(one: BlockTime) -> str:
    return f"{one.piece.name or NOWHERE}{': ' * bool(one.piece.text)}{one.piece.text}"


def _told(what: str, ms: float, profile: Profile) -> str:
    return f"{what}, {wording.ms(ms)} ms, {wording.percent(ms / profile.sum_ms)} %"


def block_bars(profile: Profile, width: float) -> Markup:
    """One bar a block, split by sort of work, with its time and how it compares for its work."""
    blocks, narrow = profile.blocks, width <= SLIM
    pitch, start = (38, 0) if narrow else (21, GUTTER)
    drawing = canvas(width, pitch * len(blocks) + 26, "Milliseconds of each block by sort of work")
    place = Axis(0, max((one.ms for one in blocks), default=1.0) or 1.0, start, width - 128)
    _scale(drawing, place, 0, pitch * len(blocks) + 2)
    for index, one in enumerate(blocks):
        base = pitch * (index + 1) - 5
        _block_bar(drawing, one, profile, place, base)
        name, (x, y, anchor) = one.piece.name or NOWHERE, (0, base - 18, "start")
        if not narrow:
            x, y, anchor = GUTTER - 10, base - 3, "end"
        write(drawing, "name clear", name, x, y, anchor)
    return markup(drawing)


def _block_bar(drawing: Element, one: BlockTime, profile: Profile, place: Axis, base: float) -> None:
    at, split = 0.0, {sort: one.sorts[sort] for sort in SORTS if sort in one.sorts} or {"": one.ms}
    for sort, ms in split.items():
        told = _told(f"{_named(one)}{', ' * bool(sort)}{sort}", ms, profile)
        size = {"x": place(at), "y": base - 14, "width": place(at + ms) - place(at), "height": 14}
        draw(drawing, "rect", slug(sort), size, title=told)
        at += ms
    rate, usual = one.ms_per_mmac, profile.ms_per_mmac
    times = f" · ×{rate / usual:.1f}" if rate and usual else ""
    text = f"{wording.ms(one.ms)} ms{times}"
    write(drawing, "tick clear", text, place(at) + 6, base - 3)


def _scale(drawing: Element, place: Axis, top: float, bottom: float) -> None:
    ticks = place.ticks(60)
    for tick in ticks:
        rule(drawing, "grid", place(tick), top, place(tick), bottom)
        text = tick_text(tick) + (" ms" if tick == ticks[-1] else "")
        near = place.end - place(tick) < 20
        anchor = "start" if tick == 0 else "end" if near else "middle"
        write(drawing, "tick", text, place(tick), bottom + 15, anchor)
