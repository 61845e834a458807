"""What each single change costs in loss, measured with inherited weights: importances that add up.

The exact policy needs a sum over the places of a network. Each place's choices are tried one by one in the
largest network: the loss with the choice less the loss with its own.

Noise must not make the smaller look better, so the rises are repaired: over widths, expansions and input
sizes by isotonic regression (the nearest rises in least squares that never fall from wider to narrower), and
the identity's is never below another kind's (the same for that partial order).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.optimize import isotonic_regression

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.search.scores import ScoreMany
from efficientformer.search.space.choices import Choice, Choices, Place
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import IDENTITY

Rises = Mapping[Place, Mapping[Choice, float]]


@dataclass(frozen=True)
class Values:
    """The rise in loss of each choice over the largest network's own, repaired; lower is better.

    Attributes:
        rises: of each place, of each of its choices; the largest network's own has 0.
    """

    rises: Rises

    def of(self, architecture: Architecture) -> float:
        """The sum of a network's rises, identities in place.

        Raises:
            InputError: if a choice of the network has no value.
        """
        try:
            return sum(self._places(architecture))
        except (KeyError, IndexError):
            raise InputError(
                f"{architecture}: has no value; is it of the space the values are of, identities in place?"
            ) from None

    def _places(self, architecture: Architecture) -> list[float]:
        blocks = [
            self.block(stage, position, block.kind, block.expansion)
            for stage, one in enumerate(architecture.stages)
            for position, block in enumerate(one.blocks)
        ]
        whole = [
            self.rises[place][place.of(architecture)]
            for place in self.rises
            if place.what not in ("kind", "expansion")
        ]
        return [*blocks, *whole]

    def block(self, stage: int, position: int, kind: str, expansion: int) -> float:
        """The rise of a block: its kind's and its expansion's, but never more than of leaving it out."""
        kinds = self.rises[Place("kind", stage, position)]
        if kind == IDENTITY:
            return kinds[IDENTITY]
        rise = kinds[kind] + self.rises[Place("expansion", stage, position)][expansion]
        return min(rise, kinds.get(IDENTITY, rise))

    def importance(self) -> Importance:
        """The same as importances of positions: what leaving a block out costs."""
        scores: list[list[float]] = [[], [], [], []]
        for place, rises in self.rises.items():
            if place.what == "kind":
                scores[place.stage].append(rises.get(IDENTITY, max(rises.values())))
        return Importance(tuple(map(tuple, scores)))


def measure_values(choices: Choices, score: ScoreMany) -> Values:
    """Try each choice of each place by itself in the largest network.

    Args:
        choices: what each place can have.
        score: asked once, for everything.
    """
    largest = choices.space.largest
    tried = [
        (place, choice, place.put(largest, choice))
        for place, can in choices.places.items()
        if not place.idle(largest)
        for choice in can
        if choice != place.of(largest)
    ]
    base, *scored = score([largest, *(network for *_, network in tried)])
    rose = {change[:2]: one.loss - base.loss for change, one in zip(tried, scored, strict=True)}

    def rises(place: Place, can: Sequence[Choice]) -> dict[Choice, float]:
        if place.idle(largest):
            return dict.fromkeys(can, 0.0)
        raw = [0.0 if choice == place.of(largest) else rose[place, choice] for choice in can]
        return dict(zip(can, repaired(place, can, raw), strict=True))

    return Values({place: rises(place, can) for place, can in choices.places.items()})


def repaired(place: Place, choices: Sequence[Choice], rises: Sequence[float]) -> list[float]:
    """Rises without what only noise can have made: see the module's head.

    Args:
        place: where.
        choices: the largest network's own first, sizes in falling order, the identity last.
        rises: of each, the first 0.
    """
    if place.what in ("activation", "stem") or len(rises) < 2:
        return list(rises)
    if place.what == "kind":
        return _under_identity(rises) if choices[-1] == IDENTITY else list(rises)
    ordered = isotonic_regression(rises[1:]).x  # the own one's 0 is exact: the others are bounded by it
    return [0.0, *(max(0.0, float(rise)) for rise in ordered)]


def _under_identity(rises: Sequence[float]) -> list[float]:
    """The nearest rises of which the last is the greatest, and not below the first, which stays 0."""
    own, *others, identity = rises
    total, count, level = identity, 1, identity
    for rise in sorted(others, reverse=True):
        if rise <= level:
            break
        total, count = total + rise, count + 1
        level = total / count
    level = max(own, level)
    return [own, *(min(rise, level) for rise in others), level]
