"""A machine that has changed since its table was filled: a few files are timed again before rows are used.

One that is only slower or faster than it was, as shared machines are from hour to hour, is no other machine:
rows, and the search's own measurements, bring that in. One on which files take longer than the reference
network tells is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from efficientformer.errors import InputError
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table.chains import CALL, EMPTY, Chain, name_of
from efficientformer.layers import KINDS, Layer

REFUSED = (0.77, 1.3)  # outside of these, rows say nothing of this machine
SILENT = (0.9, 1.1)  # within these, nothing is said


def chosen(layers: Sequence[Layer], receipts: Mapping[str, Measurement]) -> list[Chain]:
    """The call and two single blocks, one of middle cost and the dearest; none if there are no rows.

    Of files that were measured, the same each time.
    """
    blocks: list[Chain] = [(layer,) for layer in layers if KINDS[layer.kind].role == "block"]
    blocks.sort(key=lambda chain: (receipts[name_of(chain)].median_ms, name_of(chain)))
    if CALL not in receipts:
        return []
    return [EMPTY, *dict.fromkeys([blocks[len(blocks) // 2], blocks[-1]])] if blocks else [EMPTY]


def verdict(path: Path, ratio: float, beside: float) -> str:
    """A line about how long rows take now over what they took; empty if there is nothing to say.

    Args:
        path: the table.
        ratio: now over then.
        beside: the same, over what the reference network takes now and took then.

    Raises:
        InputError: if rows changed too much beside the reference.
    """
    if not REFUSED[0] <= beside <= REFUSED[1]:
        raise InputError(
            f"{path}: its rows take {beside:.2f} times as long now as when they were measured, the machine's "
            "speed apart; let other programs end, or measure anew with another --table"
        )
    if SILENT[0] <= ratio <= SILENT[1]:
        return ""
    return f"   rows of the latency table take {ratio:.2f} times as long now as when they were measured"
