"""Receipts taken at two times: do their medians agree?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.latency.matrix import Matrix
from efficientformer.latency.measurement import Measurement

AGREE = 0.03  # medians on a quiet machine, within the hour


@dataclass(frozen=True)
class Agreement:
    """One model on one target, then and now.

    Attributes:
        then, now: the receipts.
        same_machine: whether processor, runtime and versions are the same.
    """

    then: Measurement
    now: Measurement

    @property
    def ratio(self) -> float:
        """Now's median over then's."""
        return self.now.median_ms / self.then.median_ms

    @property
    def same_machine(self) -> bool:
        """Whether processor, runtime and versions are the same."""
        return self.then.fingerprint == self.now.fingerprint

    @property
    def agree(self) -> bool:
        """Within 3 %."""
        return abs(self.ratio - 1) <= AGREE


def read_receipts(path: Path) -> list[Measurement]:
    """The receipts in a file that `measure --out` or `measure --json` wrote.

    Raises:
        InputError: if it is none.
    """
    try:
        document = read_json(path)
        listed = document["receipts"] if isinstance(document, dict) else document
        return [Measurement.from_json(one) for one in listed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: holds no receipts ({error}); give a file that measure --out wrote"
        ) from None


def compared(earlier: Sequence[Measurement], matrix: Matrix) -> list[Agreement]:
    """Every pair of model and target that was measured both times."""
    now = {(one.model, one.target): one for row in matrix.receipts.values() for one in row.values()}
    return [
        Agreement(then, now[then.model, then.target]) for then in earlier if (then.model, then.target) in now
    ]
