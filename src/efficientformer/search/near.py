"""Networks whose latency lies near the budgets: those a supernet of `paths="near"` is trained on.

A search scores networks of one latency. A supernet that is trained on all of its space trains them rarely,
and the largest of a width most; the ranks of narrow and of deep networks suffer from it (docs/slimming.md).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from efficientformer.architecture import Architecture
from efficientformer.search.choices import Choices
from efficientformer.search.costs import Costs, Remembered, Window
from efficientformer.search.variation import Variation

WIDE = 0.2  # of a budget, to either side: room for a table that is recalibrated, and for what is near
_DRAWS = 20


@dataclass(frozen=True)
class Near:
    """Draws such networks.

    Attributes:
        choices: what each place can have.
        costs: of each layer.
        windows: of latency, one a budget.
    """

    choices: Choices
    costs: Costs
    windows: tuple[Window, ...]

    @classmethod
    def budgets(cls, choices: Choices, costs: Costs, budgets_ms: Sequence[float]) -> Near:
        """Near any of some budgets, each as often."""
        windows = (Window((1 - WIDE) * one, (1 + WIDE) * one) for one in budgets_ms)
        return cls(choices, Remembered(costs), tuple(windows))

    def draw(self, generator: random.Random) -> Architecture:
        """A network, identities in place, of the largest network's input size, as images come in that.

        Where none of a window is found, which holds few networks or none, any of the space.
        """
        variation = Variation(self.choices, self.costs, generator.choice(self.windows), generator)
        drawn = (variation.sample() for _ in range(_DRAWS))
        network = next((one for one in drawn if one is not None), None) or self.choices.sample(generator)
        return dataclasses.replace(network, input_size=self.choices.space.largest.input_size)
