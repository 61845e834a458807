"""Random networks of a latency window: drawn, mutated, crossed, and moved into the window."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from functools import cached_property

from efficientformer.architecture import Architecture
from efficientformer.search.space.choices import Choices, Place
from efficientformer.search.space.costs import Costs, Window, predicted_ms

_TRIES = 200  # random changes on the way into a window


@dataclass(frozen=True)
class Variation:
    """Makes networks of a window; all randomness is the generator's.

    Attributes:
        choices: what each place can have.
        costs: of each layer.
        window: the latencies that will do.
        generator: of random numbers.
    """

    choices: Choices
    costs: Costs
    window: Window
    generator: random.Random

    def sample(self) -> Architecture | None:
        """A random network, moved into the window; None if it did not get there."""
        return self.into_window(self.choices.sample(self.generator))

    def mutated(self, network: Architecture) -> Architecture | None:
        """One to three random changes, then into the window."""
        for _ in range(self.generator.randint(1, 3)):
            network = self._changed(network)
        return self.into_window(network)

    def crossed(self, one: Architecture, other: Architecture) -> Architecture | None:
        """Each stage of either parent, activation and input size of the first, then into the window."""
        stages = tuple(map(self.generator.choice, zip(one.stages, other.stages, strict=True)))
        child = dataclasses.replace(one, stages=stages)
        return self.into_window(child if self.choices.keeps_shape(child) else one)

    def into_window(self, network: Architecture) -> Architecture | None:
        """Random changes, each kept if it brings the latency nearer, until the network lies in the window."""
        distance = self._distance(network)
        for _ in range(_TRIES):
            if not distance:
                return network
            other = self._changed(network)
            nearer = self._distance(other)
            if nearer < distance:
                network, distance = other, nearer
        return None if distance else network

    @cached_property
    def _places(self) -> list[Place]:
        """Where there is something to choose."""
        return [place for place, can in self.choices.places.items() if len(can) > 1]

    def _distance(self, network: Architecture) -> float:
        return self.window.distance(predicted_ms(self.costs, network))

    def _changed(self, network: Architecture) -> Architecture:
        """Another choice at a random place: sizes up to two steps away, anything else at random."""
        for _ in range(_TRIES):
            place = self.generator.choice(self._places)
            if place.idle(network):
                continue
            can, now = self.choices.places[place], place.of(network)
            if place.what in ("width", "expansion"):
                index = can.index(now)
                can = can[max(0, index - 2) : index + 3]
            other = place.put(network, self.generator.choice([choice for choice in can if choice != now]))
            if self.choices.keeps_shape(other):
                return other
        return network
