"""What the policies that score networks of a latency window have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.progress import Progress
from efficientformer.search.scores import Tally, canonical
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, EmptyWindowError, Window, predicted_ms

_DRAWS = 20  # networks in a row that may fail to be made, or be known already


@dataclass(frozen=True)
class Candidate:
    """A network that was scored.

    Attributes:
        architecture: identities in place.
        predicted_ms: its latency.
        score: with inherited weights.
    """

    architecture: Architecture
    predicted_ms: float
    score: Score

    @property
    def rank(self) -> tuple[float, float]:
        """What the least of is best: the loss, which few images tell finer than they tell accuracy."""
        return self.score.loss, -self.score.top1


class WindowSearch(Protocol):
    """What searches a latency window by scoring networks of it."""

    def __call__(
        self,
        choices: Choices,
        costs: Costs,
        window: Window,
        tally: Tally,
        evaluations: int,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Candidate:
        """The best network that is found in a window.

        Args:
            choices: what each place can have.
            costs: of each layer.
            window: the latencies that will do.
            tally: scores networks, some at a time.
            evaluations: how many networks may be scored.
            seed: of all randomness.
            progress: told after each batch of scores.

        Raises:
            EmptyWindowError: if no network was found in the window.
        """
        ...


def new_networks(
    make: Callable[[], Architecture | None], count: int, known: dict[Architecture, None], window: Window
) -> list[Architecture]:
    """Some networks that are not known yet, fewer if there seem to be no more; they are then known.

    Args:
        make: makes one, or fails.
        count: how many.
        known: those there are, in canonical form.
        window: named in the error.

    Raises:
        EmptyWindowError: if none is known and none can be made.
    """
    found: list[Architecture] = []
    failed = 0
    while len(found) < count and failed < _DRAWS:
        network = make()
        if network is None or canonical(network) in known:
            failed += 1
            continue
        known[canonical(network)] = None
        found.append(network)
        failed = 0
    if not known:
        raise EmptyWindowError(window)
    return found


def scored(
    networks: list[Architecture], costs: Costs, score: Callable[[list[Architecture]], list[Score]]
) -> list[Candidate]:
    """Networks with latency and score; asked for together."""
    pairs = zip(networks, score(networks) if networks else [], strict=True)
    return [Candidate(one, predicted_ms(costs, one), score) for one, score in pairs]
