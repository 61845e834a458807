"""Importances fitted to whole networks: what each choice adds to the loss among networks of one latency.

`values.py` tries each change alone around the largest network, which says little of networks half as large.
Here the same kind of sum is fitted to the scores of any networks, by least squares:

    loss(network) = θ_0 + Σ_f θ_f · (how often the network has f)

A feature f is a kind at a position, a kind anywhere in a stage (less the kind that the largest network has
there), or a step down in width, expansion or input size; a step down never lowers the loss. What a kind does
anywhere in a stage is held to be greater than what the position changes of it (the prior's spread, `_SHARED`
and `_OWN`), so that few networks say something of all positions. Drawn instead of fitted, the values are one
sample of what the scores leave open: targets and prior are each moved by noise of their own spread
(randomise-then-optimise, Bardsley et al., SIAM J. Sci. Comput. 2014; exact for a linear model but for the
bounds).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import lsq_linear

from efficientformer.architecture import Architecture
from efficientformer.search.choices import Choice, Choices, Place
from efficientformer.search.values import Values

_SHARED = 1.0  # spread of a stage-wide effect, in standard deviations of the losses
_OWN = 0.4  # of one position's or one step's
_NOISE = 0.4  # of what a sum cannot say

Feature = tuple[str, int, int, Choice]
"""What, stage, position (-1: any), choice."""


class Fit:
    """The least-squares problem of some scored networks.

    Args:
        choices: what each place can have.
        networks: identities in place.
        losses: of each.
    """

    def __init__(self, choices: Choices, networks: Sequence[Architecture], losses: Sequence[float]) -> None:
        self._choices = choices
        steps: dict[Feature, bool] = {}
        for place, can in choices.places.items():
            for choice in can[1:]:
                steps |= dict.fromkeys((name for name, _ in _features(place, can, choice)), _ordered(place))
        self._index = {feature: index for index, feature in enumerate(steps)}
        self._spread = float(np.std(losses)) or 1.0
        shared = [feature[2] < 0 and feature[1] >= 0 and feature[0] != "width" for feature in steps]
        prior = self._spread * np.append(np.where(shared, _SHARED, _OWN), 10.0)
        rows = np.array([self._row(network) for network in networks])
        noise = _NOISE * self._spread
        self._matrix = np.vstack([rows / noise, np.diag(1 / prior)])
        mean = float(np.mean(losses))  # the prior of θ_0, the last
        self._target = np.concatenate([np.array(losses) / noise, np.zeros(len(steps)), [mean / prior[-1]]])
        self._least = np.append(np.where(list(steps.values()), 0.0, -np.inf), -np.inf)

    def values(self, generator: np.random.Generator | None = None) -> Values:
        """The fitted values, or with a generator a sample of what the scores leave open."""
        target = self._target
        if generator is not None:
            target = target + generator.normal(size=len(target))
        found = lsq_linear(self._matrix, target, bounds=(self._least, np.inf)).x
        rises = {
            place: {
                choice: float(
                    sum(sign * found[self._index[name]] for name, sign in _features(place, can, choice))
                )
                for choice in can
            }
            for place, can in self._choices.places.items()
        }
        return Values(rises)

    def _row(self, network: Architecture) -> np.ndarray:
        row = np.zeros(len(self._index) + 1)
        row[-1] = 1.0
        for place, can in self._choices.places.items():
            if not place.idle(network):
                for name, sign in _features(place, can, place.of(network)):
                    row[self._index[name]] += sign
        return row


def _ordered(place: Place) -> bool:
    """Whether the place's choices fall in size."""
    return place.what in ("width", "expansion", "input_size")


def _features(place: Place, can: Sequence[Choice], choice: Choice) -> Iterator[tuple[Feature, float]]:
    """The features of a choice, with their signs: none for the largest network's own, which has 0."""
    at = can.index(choice)
    passed = can[1 : at + 1] if _ordered(place) else can[at : at + 1] if at else ()
    for one in passed:
        yield (place.what, place.stage, place.position, one), 1.0
        if place.position >= 0:
            yield (place.what, place.stage, -1, one), 1.0
    if passed and place.what == "kind":
        yield (place.what, place.stage, -1, can[0]), -1.0
