"""Random search inside a latency window: what any policy has to beat at equal cost."""

from __future__ import annotations

import random

from efficientformer.architecture import Architecture
from efficientformer.progress import Progress
from efficientformer.search.policies.candidates import Candidate, new_networks, scored
from efficientformer.search.scores import Tally
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, Window
from efficientformer.search.space.variation import Variation

BATCH = 16  # networks scored together


def search_randomly(
    choices: Choices,
    costs: Costs,
    window: Window,
    tally: Tally,
    evaluations: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Candidate:
    """The best of some random networks of a window; a `WindowSearch`."""
    variation = Variation(choices, costs, window, random.Random(seed))
    known: dict[Architecture, None] = {}
    found: list[Candidate] = []
    while len(known) < max(1, evaluations):
        count = min(BATCH, max(1, evaluations) - len(known))
        batch = new_networks(variation.sample, count, known, window)
        if not batch:
            break  # the window seems to hold no others
        found += scored(batch, costs, tally.score)
        if progress:
            best = min(found, key=lambda one: one.rank)
            progress.update(len(known), evaluations, f"best loss {best.score.loss:.4f}")
    return min(found, key=lambda one: one.rank)
