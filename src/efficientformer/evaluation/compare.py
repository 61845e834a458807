"""Two networks on the same pictures: what changed, and whether that is more than chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from efficientformer.errors import InputError

_Z = 1.959963984540054  # 97.5 % of the normal distribution


@dataclass(frozen=True)
class Comparison:
    """A network beside a reference, picture by picture.

    Attributes:
        model: which network.
        reference: which it is compared with.
        images: how many pictures both saw.
        agreement: share of them that both take for the same class, right or wrong.
        lost: pictures that the reference alone has right.
        won: pictures that the network alone has right.
    """

    model: str
    reference: str
    images: int
    agreement: float
    lost: int
    won: int

    @property
    def difference(self) -> float:
        """Top-1 of the network less that of the reference, as a share."""
        return (self.won - self.lost) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference for pictures of the same kind.

        Of paired shares, with half a picture added to each of the four cells (Agresti & Min, Statistics in
        Medicine 24, 2005): it stays honest where few pictures or none differ, as after an export, where
        Wald's interval and a bootstrap shrink to nothing.
        """
        images, lost, won = self.images + 2, self.lost + 0.5, self.won + 0.5
        middle = (won - lost) / images
        reach = _Z * ((lost + won) - (won - lost) ** 2 / images) ** 0.5 / images
        return max(-1.0, middle - reach), min(1.0, middle + reach)

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how probable so uneven a `lost` and `won` is between equally good ones."""
        return float(binomtest(self.won, self.won + self.lost).pvalue) if self.won + self.lost else 1.0

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        interval = [round(side, 4) for side in self.interval]
        figures = {"difference": self.difference, "interval": interval, "p_value": self.p_value}
        return {**asdict(self), **figures}


def compare(
    model: str, guesses: np.ndarray, reference: str, expected: np.ndarray, labels: np.ndarray
) -> Comparison:
    """Compare two networks' guesses: int (n,) each, with the labels of the same pictures in the same order.

    Raises:
        InputError: if they are not of as many pictures.
    """
    if not len(guesses) == len(expected) == len(labels):
        wrong = f"{model} saw {len(guesses)} pictures, {reference} {len(expected)}"
        raise InputError(f"{wrong}; only the same pictures can be compared")
    right, before = guesses == labels, expected == labels
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    return Comparison(model, reference, len(labels), float((guesses == expected).mean()), lost, won)
