"""A network moved into a latency window by small changes: the last few per cent of a budget."""

from __future__ import annotations

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.search.policies.candidates import Candidate, scored
from efficientformer.search.scores import Tally
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, Window, predicted_ms

BATCH = 8  # neighbours scored together
EVALUATIONS = 32


def refine(
    network: Architecture,
    window: Window,
    choices: Choices,
    costs: Costs,
    tally: Tally,
    evaluations: int = EVALUATIONS,
) -> Architecture:
    """Move a network into a window.

    Each round looks at the neighbours nearer the window; of the few nearest, the best by score is taken.
    Where there is none, two changes at once are looked at. When the evaluations are used up, the nearest is
    taken unscored.

    Args:
        network: identities in place.
        window: the latencies that will do.
        choices: what each place can have.
        costs: of each layer.
        tally: scores networks.
        evaluations: how many networks may be scored.

    Returns:
        one of the window; the nearest below, if no network near was found in it.

    Raises:
        InputError: if the network is over the window and nothing is left to take away.
    """
    left = evaluations
    path = [network]
    while distance := window.distance(predicted_ms(costs, path[-1])):
        near = _nearer(choices.neighbours(path[-1]), distance, window, costs) or _nearer(
            _two_away(choices, path[-1]), distance, window, costs
        )
        if not near:
            return _below(path, window, choices, costs)
        batch = near[: min(BATCH, left)]
        left -= len(batch)
        path.append(_best(scored(batch, costs, tally.score)) if batch else near[0])
    return path[-1]


def _best(some: list[Candidate]) -> Architecture:
    return min(some, key=lambda one: one.rank).architecture


def _two_away(choices: Choices, network: Architecture) -> list[Architecture]:
    """Networks two small changes away, each once."""
    found = (two for one in choices.neighbours(network) for two in choices.neighbours(one))
    return list(dict.fromkeys(found))


def _nearer(
    networks: list[Architecture], distance: float, window: Window, costs: Costs
) -> list[Architecture]:
    """Those nearer the window than a distance, the nearest first; inside it, the dearest first."""
    timed = [(predicted_ms(costs, one), one) for one in networks]
    near = [(window.distance(ms), -ms, one) for ms, one in timed if window.distance(ms) < distance]
    return [one for *_, one in sorted(near, key=lambda triple: triple[:2])]


def _below(path: list[Architecture], window: Window, choices: Choices, costs: Costs) -> Architecture:
    """The nearest below the window that was passed, or that leads down from the last network."""
    while predicted_ms(costs, path[-1]) > window.high_ms:
        here = predicted_ms(costs, path[-1])
        timed = [(predicted_ms(costs, one), one) for one in choices.neighbours(path[-1])]
        smaller = [(ms, one) for ms, one in timed if ms < here]
        if not smaller:
            raise InputError(f"no network at or under {window.high_ms:.3f} ms was found")
        under = [pair for pair in smaller if pair[0] <= window.high_ms]
        path = [*path, max(under or smaller, key=lambda pair: pair[0])[1]]
    below = [one for one in path if predicted_ms(costs, one) <= window.high_ms]
    return max(below, key=lambda one: predicted_ms(costs, one))
