"""What a profile holds, and how it becomes a JSON document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from efficientformer.latency.measurement import Measurement, joined
from efficientformer.profile.blocks import Piece
from efficientformer.profile.kinds import kind_of
from efficientformer.runtimes import Operator

FORMAT = "efficientformer.profile/1"
NOWHERE = "(not of one block)"


@dataclass(frozen=True)
class Finding:
    """Something that stands out, in one sentence.

    Attributes:
        kind: `longest`, `fallback`, `conversion`, `activation`, `norm`, `shape` or `slow block`.
        text: the sentence, with names and milliseconds.
        ms: what it is about takes.
        share: of the sum of all.
    """

    kind: str
    text: str
    ms: float
    share: float


@dataclass(frozen=True)
class Placed:
    """An operator with its place in the network.

    Attributes:
        operator: as the runtime's profiler tells of it.
        block: the block it belongs to; empty if that is not known.
        inside: the path inside the block, `mlp.path.0`.
        sort: what sort of work it does, one of `kinds.SORTS`.
    """

    operator: Operator
    block: str
    inside: str
    sort: str

    @property
    def ms(self) -> float:
        """Median milliseconds in one inference."""
        return self.operator.ms

    @property
    def where(self) -> str:
        """Its kind and block, for sentences."""
        return f"{kind_of(self.operator)} in {self.block or NOWHERE}"


@dataclass(frozen=True)
class BlockTime:
    """One block with its time.

    Attributes:
        piece: what it is.
        ms: the sum of its operators; or what it takes alone, less an empty call.
        share: of the sum of all.
        operators: how many it ran as; 0 if none were told apart.
        sorts: milliseconds by sort of work.
        receipt: its own, where it was timed alone.
    """

    piece: Piece
    ms: float
    share: float
    operators: int
    sorts: dict[str, float] = field(default_factory=dict)
    receipt: Measurement | None = None

    @property
    def ms_per_mmac(self) -> float | None:
        """Milliseconds for a million multiply-accumulates; None where there are none or it is not known."""
        return self.ms / (self.piece.macs / 1e6) if self.piece.macs else None


@dataclass(frozen=True)
class KindTime:
    """All operators of one kind.

    Attributes:
        kind: in the runtime's words.
        sort: what sort of work it is.
        operators: how many.
        ms: together.
        share: of the sum of all.
        gflops: billion floating-point operations a second, two a multiply-accumulate; None unless the work of
            every one of them follows from its shapes.
    """

    kind: str
    sort: str
    operators: int
    ms: float
    share: float
    gflops: float | None


@dataclass(frozen=True)
class Profile:
    """Where one network's time goes on one target.

    Attributes:
        model: its name.
        target: where.
        macs: multiply-accumulates of the whole for one image; None for a file.
        before, after: receipts of the whole without a profiler, before it ran and after.
        profiler: the profiler's name; empty if each block was timed alone.
        profiled: the whole while the profiler ran; None if none did.
        operators: in order of execution; empty if each block was timed alone.
        blocks: in order of execution.
        kinds: operators by kind, the longest first; empty if each block was timed alone.
        findings: what stands out.
        why_alone: why there is no profile by operator; empty if there is one.
        call_ms: what an all but empty call takes, already taken off each block that was timed alone.
    """

    model: str
    target: str
    macs: int | None
    before: Measurement
    after: Measurement
    profiler: str
    profiled: Measurement | None
    operators: tuple[Placed, ...]
    blocks: tuple[BlockTime, ...]
    kinds: tuple[KindTime, ...] = ()
    findings: tuple[Finding, ...] = ()
    why_alone: str = ""
    call_ms: float = 0.0

    @property
    def whole(self) -> Measurement:
        """The receipt of the unprofiled whole: both together."""
        return joined([self.before, self.after])

    @property
    def sum_ms(self) -> float:
        """All operators, or all blocks that were timed alone."""
        parts = [one.ms for one in self.operators] or [one.ms for one in self.blocks]
        return sum(parts)

    @property
    def sum_share(self) -> float:
        """The sum over the unprofiled whole."""
        return self.sum_ms / self.whole.median_ms

    @property
    def ms_per_mmac(self) -> float | None:
        """The sum for a million multiply-accumulates of all blocks; None if those are not known."""
        macs = sum(one.piece.macs or 0 for one in self.blocks)
        return self.sum_ms / (macs / 1e6) if macs else None

    @property
    def overhead(self) -> float | None:
        """How much longer the whole took under the profiler, as a share; None if none ran."""
        return self.profiled.median_ms / self.whole.median_ms - 1 if self.profiled else None

    def statements(self) -> list[str]:
        """How far the figures can be trusted: whole, profiler, sum."""
        return [_whole_said(self), *_profiler_said(self), _sum_said(self)]

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; receipts with their samples."""
        return {
            "format": FORMAT,
            "model": self.model,
            "target": self.target,
            "macs": self.macs,
            "whole": self.whole.to_json(),
            "before_ms": self.before.median_ms,
            "after_ms": self.after.median_ms,
            "profiler": self.profiler or None,
            "why_alone": self.why_alone or None,
            "profiled": self.profiled.to_json() if self.profiled else None,
            "overhead": self.overhead,
            "sum_ms": self.sum_ms,
            "sum_share": self.sum_share,
            "call_ms": self.call_ms if self.why_alone else None,
            "blocks": [_block_json(one) for one in self.blocks],
            "kinds": [vars(one) for one in self.kinds],
            "operators": [_operator_json(one) for one in self.operators],
            "findings": [vars(one) for one in self.findings],
            "statements": self.statements(),
        }


def _whole_said(profile: Profile) -> str:
    before, after = profile.before.median_ms, profile.after.median_ms
    return (
        f"the whole without a profiler: {profile.whole}, on {profile.target}; "
        f"{before:.3f} ms before the profile, {after:.3f} ms after it"
    )


def _profiler_said(profile: Profile) -> list[str]:
    if profile.profiled is None or profile.overhead is None:
        return [f"each block timed alone: {profile.why_alone}"]
    cost = _percent(profile.overhead, "+")
    return [
        f"the whole under the profiler ({profile.profiler}): {profile.profiled}, {cost}; operators' times "
        f"are medians of these {len(profile.profiled.samples_ms)} runs"
    ]


def _sum_said(profile: Profile) -> str:
    whole, what = profile.whole, "operators" if profile.profiled else "blocks"
    told = f"{what} sum to {profile.sum_ms:.3f} ms, {_percent(profile.sum_share)} of the unprofiled whole"
    if profile.profiled is None:
        told += f"; {profile.call_ms:.4f} ms of an all but empty call are taken off each"
    if whole.verdict != "stable":
        care = "hardly compare" if whole.verdict == "unusable" else "compare with care"
        return f"{told}; but the whole is {whole.verdict} ({'; '.join(whole.reasons)}): the two {care}"
    if profile.profiled and profile.sum_share <= 1:
        told += f"; {_percent(1 - profile.sum_share)} is between and around them"
    elif profile.profiled:
        told += "; the profiler's own cost is in them, and weighs most on small ones"
    return told


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.0f} %"


def _block_json(one: BlockTime) -> dict[str, Any]:
    return {
        "name": one.piece.name or NOWHERE,
        "kind": one.piece.kind or None,
        "text": one.piece.text or None,
        "macs": one.piece.macs,
        "ms": one.ms,
        "share": one.share,
        "ms_per_mmac": one.ms_per_mmac,
        "operators": one.operators,
        "sorts": one.sorts,
        "receipt": one.receipt.to_json() if one.receipt else None,
    }


def _operator_json(one: Placed) -> dict[str, Any]:
    return {**vars(one.operator), "block": one.block or None, "inside": one.inside, "sort": one.sort}
