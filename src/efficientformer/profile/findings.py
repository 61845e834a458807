"""What stands out in a profile. Nothing here is guessed: each sentence follows from roles, kinds and sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from efficientformer.profile.kinds import alone, kind_of
from efficientformer.profile.result import NOWHERE, BlockTime, Finding, Placed

SLOW = 3.0  # times the network's milliseconds a multiply-accumulate
SMALL = 0.01  # a block of less than this share is not worth a sentence
_NAMED = 3  # operators or blocks named in one sentence


def findings(operators: Sequence[Placed], blocks: Sequence[BlockTime]) -> tuple[Finding, ...]:
    """What stands out, each in one sentence.

    Args:
        operators: in order of execution; none if blocks were timed alone.
        blocks: with their times.
    """
    total = sum(one.ms for one in operators) or sum(one.ms for one in blocks)
    if total <= 0:
        return ()
    found = [*_of_operators(operators, total), *_slow_blocks(blocks, total)]
    return tuple(found)


def _of_operators(operators: Sequence[Placed], total: float) -> Iterator[Finding]:
    if operators:
        longest = sorted(operators, key=lambda one: -one.ms)[:_NAMED]
        text = (
            f"the longest operators are {_listed(f'{one.where} ({_took(one.ms, total)})' for one in longest)}"
        )
        yield _finding("longest", text, longest, total)
    yield from _fallbacks(operators, total)
    yield from _conversions(operators, total)
    for sort in ("activation", "norm"):
        yield from _unfused(operators, sort, total)
    yield from _reshaped(operators, total)


def _fallbacks(operators: Sequence[Placed], total: float) -> Iterator[Finding]:
    fallen = [one for one in operators if one.operator.role == "fallback"]
    if fallen:
        where = "did not run where the rest did"
        text = f"{_count(fallen)} {where}, {_took(_sum(fallen), total)}: {_kinds(fallen)}, {_longest(fallen)}"
        yield _finding("fallback", text, fallen, total)


def _conversions(operators: Sequence[Placed], total: float) -> Iterator[Finding]:
    places = [index for index, one in enumerate(operators) if one.operator.role == "convert"]
    if places:
        put_in = [operators[index] for index in places]
        worst = sorted(places, key=lambda index: -operators[index].ms)[:_NAMED]
        named = _listed(f"{_between(operators, index)} ({operators[index].ms:.3f} ms)" for index in worst)
        text = (
            f"the runtime put in {len(places)} conversion{'s' * (len(places) > 1)} of layout or number type, "
            f"{_took(_sum(put_in), total)}: {_the_longest(places)}{named}"
        )
        yield _finding("conversion", text, put_in, total)


def _between(operators: Sequence[Placed], index: int) -> str:
    """A conversion and what runs before and after it, other conversions left out."""
    computing = [(at, one) for at, one in enumerate(operators) if one.operator.role != "convert"]
    before = next((one for at, one in reversed(computing) if at < index), None)
    after = next((one for at, one in computing if at > index), None)
    kind = operators[index].operator.kind
    if before and after and before.block == after.block:
        return f"{kind} between {kind_of(before.operator)} and {after.where}"
    ends = (before.where if before else "the input", after.where if after else "the output")
    return f"{kind} between {ends[0]} and {ends[1]}"


def _unfused(operators: Sequence[Placed], sort: str, total: float) -> Iterator[Finding]:
    """One finding a kind, the longest first."""
    own = [one for one in operators if alone(one.operator) == sort and one.operator.role == "compute"]
    for kind, group in _grouped(own):
        text = (
            f"{kind} is not fused: it runs as {_count(group)} of its own, {_took(_sum(group), total)}; "
            f"{_longest(group)}"
        )
        yield _finding(sort, text, group, total)


def _reshaped(operators: Sequence[Placed], total: float) -> Iterator[Finding]:
    """Changes of shape that modules of the network ask for: those that a runtime puts in have no module."""
    asked = [one for one in operators if one.sort == "shape" and one.operator.source]
    if asked:
        text = (
            f"the network's own reshapes, transposes and splits run as {_count(asked)} ({_kinds(asked)}), "
            f"{_took(_sum(asked), total)}; {_longest(asked)}"
        )
        yield _finding("shape", text, asked, total)


def _slow_blocks(blocks: Sequence[BlockTime], total: float) -> Iterator[Finding]:
    macs = sum(one.piece.macs or 0 for one in blocks)
    if not macs:
        return
    usual = total / (macs / 1e6)
    for one in blocks:
        rate, count = one.ms_per_mmac, one.piece.macs
        if rate and count and rate > SLOW * usual and one.share >= SMALL:
            text = (
                f"{one.piece.name} ({one.piece.text}) takes {rate / usual:.1f} times as long as the network "
                f"for a multiply-accumulate: {_took(one.ms, total)}, with {100 * count / macs:.1f} % of them"
            )
            yield Finding("slow block", text, one.ms, one.share)


def _finding(kind: str, text: str, about: Sequence[Placed], total: float) -> Finding:
    return Finding(kind, text, _sum(about), _sum(about) / total)


def _grouped(operators: Sequence[Placed]) -> list[tuple[str, list[Placed]]]:
    """By kind, the longest first."""
    groups: dict[str, list[Placed]] = {}
    for one in operators:
        groups.setdefault(kind_of(one.operator), []).append(one)
    return sorted(groups.items(), key=lambda item: -_sum(item[1]))


def _kinds(operators: Sequence[Placed]) -> str:
    return ", ".join(f"{len(group)} {kind}" for kind, group in _grouped(operators))


def _longest(group: Sequence[Placed]) -> str:
    """The longest of a group by block, with their time."""
    by_block: dict[str, float] = {}
    for one in group:
        by_block[one.block or NOWHERE] = by_block.get(one.block or NOWHERE, 0.0) + one.ms
    worst = sorted(by_block.items(), key=lambda item: -item[1])[:_NAMED]
    most = "the most in " if len(by_block) > len(worst) else "in "
    return most + _listed(f"{name} ({ms:.3f} ms)" for name, ms in worst)


def _the_longest(places: Sequence[int]) -> str:
    return "the longest are " if len(places) > _NAMED else ""


def _sum(operators: Sequence[Placed]) -> float:
    return sum(one.ms for one in operators)


def _took(ms: float, total: float) -> str:
    return f"{ms:.3f} ms, {100 * ms / total:.1f} %"


def _count(operators: Sequence[Placed]) -> str:
    return f"{len(operators)} operator{'s' * (len(operators) > 1)}"


def _listed(parts: Iterator[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
