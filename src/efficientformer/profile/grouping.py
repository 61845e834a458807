"""A trace's operators given to their blocks, and summed by block and by kind."""

from __future__ import annotations

from collections.abc import Sequence

from efficientformer.profile.blocks import Map, Piece, place
from efficientformer.profile.kinds import kind_of, sort_of
from efficientformer.profile.result import BlockTime, KindTime, Placed
from efficientformer.profile.work import macs_of
from efficientformer.runtimes import Trace


def placed(trace: Trace, where: Map) -> tuple[Placed, ...]:
    """A trace's operators with their blocks."""
    places = place(trace.operators, where)
    return tuple(
        Placed(one, block, inside, sort_of(one))
        for one, (block, inside) in zip(trace.operators, places, strict=True)
    )


def by_block(operators: Sequence[Placed], where: Map) -> tuple[BlockTime, ...]:
    """Blocks in order, those without an operator too, and last what belongs to none."""
    known = {piece.name: piece for piece in where.pieces}
    found = dict.fromkeys(one.block for one in operators if one.block)
    listed = [piece for piece in known.values() if piece.macs or piece.name in found]
    listed += [Piece(name) for name in found if name not in known]
    first = {name: index for index, name in reversed([*enumerate(one.block for one in operators)])}
    if not set(known) >= set(found):  # foreign: as they ran
        listed.sort(key=lambda piece: first.get(piece.name, len(operators)))
    if any(not one.block for one in operators):
        listed.append(Piece(""))
    total = sum(one.ms for one in operators) or 1.0
    return tuple(
        _block(piece, [one for one in operators if one.block == piece.name], total) for piece in listed
    )


def _block(piece: Piece, operators: Sequence[Placed], total: float) -> BlockTime:
    sorts: dict[str, float] = {}
    for one in operators:
        sorts[one.sort] = sorts.get(one.sort, 0.0) + one.ms
    ms = sum(one.ms for one in operators)
    return BlockTime(piece, ms, ms / total, len(operators), sorts)


def by_kind(operators: Sequence[Placed]) -> tuple[KindTime, ...]:
    """Operators summed by kind and sort, the longest first."""
    groups: dict[tuple[str, str], list[Placed]] = {}
    for one in operators:
        groups.setdefault((kind_of(one.operator), one.sort), []).append(one)
    total = sum(one.ms for one in operators) or 1.0
    rows = [_kind(kind, sort, group, total) for (kind, sort), group in groups.items()]
    return tuple(sorted(rows, key=lambda row: -row.ms))


def _kind(kind: str, sort: str, group: Sequence[Placed], total: float) -> KindTime:
    ms = sum(one.ms for one in group)
    macs = [count for one in group if (count := macs_of(one.operator)) is not None]
    known = len(macs) == len(group) and ms > 0
    return KindTime(kind, sort, len(group), ms, ms / total, 2 * sum(macs) / ms / 1e6 if known else None)
