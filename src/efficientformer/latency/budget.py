"""A latency budget as people write it: `8ms`, `500us`, `0.02s`, or `50%` of the unslimmed network."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from efficientformer.errors import InputError

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Budget:
    """A latency in milliseconds, or a share of the unslimmed network's; exactly one of them is set."""

    ms: float | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget.

        Raises:
            InputError: if it has no unit or is not positive; a bare number is never guessed at.
        """
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s|%)\s*", text)
        if match is None:
            raise InputError(f"budget {text!r}: give a number and its unit, such as 8ms, 500us or 50%")
        number, unit = float(match[1]), match[2]
        if number <= 0:
            raise InputError(f"budget {text!r}: must be above zero")
        if unit == "%":
            if number > 100:
                raise InputError(f"budget {text!r}: a share of the unslimmed network is at most 100%")
            return cls(share=_decimal(number / 100))
        return cls(ms=_decimal(number * _UNITS_MS[unit]))

    def resolve(self, unslimmed_ms: float) -> float:
        """The budget in milliseconds, given what the unslimmed network takes."""
        return self.ms if self.ms is not None else (self.share or 0.0) * unslimmed_ms

    def __str__(self) -> str:
        number, unit = (self.ms, "ms") if self.ms is not None else (100 * (self.share or 0.0), "%")
        return np.format_float_positional(_decimal(number), trim="-") + unit


def _decimal(number: float) -> float:
    """A number as people wrote it: 0.7, where the product of its parts is 0.7000000000000001."""
    return float(f"{number:.12g}")
