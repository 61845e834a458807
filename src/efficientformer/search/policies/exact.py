"""The best network of a latency window by integer programming, over additive values and the table's costs.

One mixed-integer program (`integer_program.py`) for each activation, stem and input size; the best of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from efficientformer.architecture import Architecture
from efficientformer.search.policies.integer_program import Program
from efficientformer.search.policies.values import Values
from efficientformer.search.space.choices import WHOLE, Choices, Place
from efficientformer.search.space.costs import Costs, EmptyWindowError, Window, predicted_ms
from efficientformer.search.space.search_space import IDENTITY


@dataclass(frozen=True)
class Exact:
    """The best network of a window.

    Attributes:
        architecture: identities in place, those of the largest network's expansion.
        predicted_ms: its latency.
        objective: its value: the sum of its rises in loss.
        bound: no network of the window has a lower one; equal, to the solver's 1e-6, when it is the best.
    """

    architecture: Architecture
    predicted_ms: float
    objective: float
    bound: float


def solve(choices: Choices, values: Values, costs: Costs, window: Window) -> Exact:
    """The network of least value in a latency window.

    Args:
        choices: what each place can have.
        values: of each choice.
        costs: of each layer of the space.
        window: the latencies that will do.

    Raises:
        EmptyWindowError: if no network of the space lies in the window.
    """
    solved: list[Architecture] = []
    bounds: list[float] = []
    for whole in itertools.product(*(choices.places[Place(what)] for what in WHOLE)):
        base = choices.space.largest
        for what, choice in zip(WHOLE, whole, strict=True):
            base = Place(what).put(base, choice)
        found, bound = Program(choices, values, costs, base).solve(window)
        bounds.append(bound)
        solved += [found] if found and window.holds(predicted_ms(costs, found)) else []
    if not solved:
        raise EmptyWindowError(window)
    network = min(solved, key=values.of)
    network = _larger_at_no_cost(network, choices, values, costs, window)
    objective = values.of(network)
    return Exact(network, predicted_ms(costs, network), objective, min(*bounds, objective))


def _larger_at_no_cost(
    network: Architecture, choices: Choices, values: Values, costs: Costs, window: Window
) -> Architecture:
    """Of networks of equal value a larger one: noise that was repaired leaves many ties."""
    for place, can in reversed(choices.places.items()):  # attention is restored from the end on
        now = place.of(network)
        larger = can[: can.index(now)] if now in can else ()
        if place.what in ("activation", "stem") or (place.what == "kind" and now != IDENTITY):
            larger = larger[:1]  # the others are not in order
        for choice in larger:
            other = place.put(network, choice)
            no_worse = values.of(other) <= values.of(network) + 1e-12
            if no_worse and choices.keeps_shape(other) and window.holds(predicted_ms(costs, other)):
                network = other
                break
    return network
