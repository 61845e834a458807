"""Networks whose latency lies near the budgets: those a supernet of `paths="near"` is trained on.

A search scores networks of one latency. A supernet that is trained on all of its space trains them rarely,
and the largest of a width most; the ranks of narrow and of deep networks suffer from it (docs/slimming.md).
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from efficientformer.architecture import Architecture
from efficientformer.search.choices import Choices
from efficientformer.search.costs import Costs, Window
from efficientformer.search.variation import Variation

WIDE = 0.2  # of a budget, to either side: room for a table that is recalibrated, and for what is near
_DRAWS = 20


@dataclass(frozen=True)
class Near:
    """Draws such networks.

    Attributes:
        choices: what each place can have.
        costs: of each layer.
        budgets_ms: each is drawn near as often.
    """

    choices: Choices
    costs: Costs
    budgets_ms: tuple[float, ...]

    @staticmethod
    def window(budget_ms: float) -> Window:
        """What is near a budget."""
        return Window((1 - WIDE) * budget_ms, (1 + WIDE) * budget_ms)

    def draw(self, generator: random.Random) -> Architecture:
        """A network, identities in place, of the largest network's input size, as images come in that.

        Where none near the budget is found, any of the space.
        """
        window = self.window(generator.choice(self.budgets_ms))
        variation = Variation(self.choices, self.costs, window, generator)
        drawn = (variation.sample() for _ in range(_DRAWS))
        network = next((one for one in drawn if one is not None), None) or self.choices.sample(generator)
        return dataclasses.replace(network, input_size=self.choices.space.largest.input_size)
