"""Samples in two parts, class by class, by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable


def apart(labels: Iterable[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """The rest, and the share of each class (one of it at least): indices, by class, ascending in each."""
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    rest: list[int] = []
    taken: list[int] = []
    for label, group in sorted(by_class.items()):
        shuffled = random.Random(f"{seed}/{label}").sample(group, len(group))
        count = max(1, round(share * len(group)))
        taken += sorted(shuffled[:count])
        rest += sorted(shuffled[count:])
    return rest, taken
