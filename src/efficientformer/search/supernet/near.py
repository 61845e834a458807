"""Networks whose latency lies near the budgets: those a supernet of `paths="near"` is trained on.

A search scores networks of one latency. A supernet that is trained on all of its space trains them rarely,
and the widest most; narrow and deep networks are ranked too low by it (docs/slimming-studies.md).
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from functools import cached_property

from efficientformer.architecture import Architecture
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, Window, predicted_ms
from efficientformer.search.space.search_space import SearchSpace
from efficientformer.search.space.variation import Variation

WIDE = 0.2  # of a budget, to either side: room for a table that is recalibrated, and for what is near
_DRAWS = 20


@dataclass(frozen=True)
class Near:
    """Draws such networks, all of the largest network's input size, as training images come in that.

    Attributes:
        space: what is searched.
        costs: of each layer, one a target; each is drawn by as often.
        budgets_ms: each is drawn near as often.
    """

    space: SearchSpace
    costs: tuple[Costs, ...]
    budgets_ms: tuple[float, ...]

    @staticmethod
    def window(budget_ms: float) -> Window:
        """What is near a budget."""
        return Window((1 - WIDE) * budget_ms, (1 + WIDE) * budget_ms)

    def draw(self, generator: random.Random) -> Architecture:
        """A network, identities in place.

        A budget beyond what the space can do counts as its end. Where none near it is found, it is any of the
        space.
        """
        budget_ms, which = generator.choice(self.budgets_ms), generator.randrange(len(self.costs))
        least_ms, greatest_ms = self._ends[which]
        window = self.window(min(max(budget_ms, least_ms), greatest_ms))
        variation = Variation(self._choices, self.costs[which], window, generator)
        drawn = (variation.sample() for _ in range(_DRAWS))
        return next((one for one in drawn if one is not None), None) or self._choices.sample(generator)

    @cached_property
    def _choices(self) -> Choices:
        return Choices(dataclasses.replace(self.space, input_sizes=()))

    @cached_property
    def _ends(self) -> list[tuple[float, float]]:
        """The least and the greatest latency by each target's costs."""
        space = self._choices.space
        small, large = space.smallest_ones(), space.largest
        return [
            (min(predicted_ms(costs, one) for one in small), predicted_ms(costs, large))
            for costs in self.costs
        ]
