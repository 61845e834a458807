"""Tables of a profile: by block, by kind of operator; and what it says in sentences."""

from __future__ import annotations

from rich.table import Table

from efficientformer.profile import BlockTime, Profile
from efficientformer.profile.result import NOWHERE
from efficientformer.terminal.table import table


def blocks_table(profile: Profile) -> Table:
    """Where the time goes by block, in order of execution; the last columns show who is slow for its work."""
    alone = bool(profile.why_alone)
    last = ("p10–p90, call in it", "n", "verdict") if alone else ("operators",)
    way = "each block timed alone" if alone else "its operators' sum"
    columns = ("block", "", "MMACs", "ms", "share", "ms / MMAC", "× network", *last)
    made = table(f"{profile.model} · {profile.target} · by block: {way}", columns)
    made.columns[1].justify, made.columns[0].no_wrap = "left", True
    usual = profile.ms_per_mmac
    for one in profile.blocks:
        more = _receipt_cells(one) if alone else (str(one.operators),)
        made.add_row(
            one.piece.name or NOWHERE,
            one.piece.text,
            f"{one.piece.macs / 1e6:.2f}" if one.piece.macs is not None else "–",
            f"{one.ms:.3f}",
            f"{100 * one.share:.1f} %",
            f"{one.ms_per_mmac:.4f}" if one.ms_per_mmac is not None else "–",
            f"{one.ms_per_mmac / usual:.1f}" if one.ms_per_mmac is not None and usual else "–",
            *more,
        )
    made.add_section()
    made.add_row("sum", "", "", f"{profile.sum_ms:.3f}", "", f"{usual:.4f}" if usual else "–", "", "")
    return made


def _receipt_cells(one: BlockTime) -> tuple[str, str, str]:
    if one.receipt is None:
        return ("–", "–", "–")
    kept = one.receipt
    return (f"{kept.p10_ms:.3f}–{kept.p90_ms:.3f}", str(len(kept.samples_ms)), kept.verdict)


def kinds_table(profile: Profile) -> Table:
    """Where the time goes by kind of operator, the longest first."""
    columns = ("kind", "sort", "operators", "ms", "share", "GFLOP/s")
    made = table(f"{profile.model} · {profile.target} · by kind of operator", columns)
    made.columns[1].justify = "left"
    for one in profile.kinds:
        made.add_row(
            one.kind,
            one.sort,
            str(one.operators),
            f"{one.ms:.3f}",
            f"{100 * one.share:.1f} %",
            f"{one.gflops:.1f}" if one.gflops is not None else "–",
        )
    return made


def profile_notes(profile: Profile) -> list[str]:
    """What must be said of a profile's figures, and what stands out in them."""
    notes = [f"  {sentence}" for sentence in profile.statements()]
    found = [f"  · {one.text}" for one in profile.findings]
    return [*notes, *(("", "what stands out", *found) if found else ())]
