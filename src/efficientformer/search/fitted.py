"""Exact search over importances fitted in the window: solve, score, fit again.

Some random networks of the window are scored, importances are fitted to them (`fitting.py`), and the integer
program gives the best network by them. Where scores are few, what they leave open is large: so each round
also solves for importances drawn from it (Thompson sampling), which tries what might be best as often as it
is likely to be. What is found is scored, and the next round knows more. Where a round finds what it knows,
small changes of the best take the place.
"""

from __future__ import annotations

import random
from functools import partial

import numpy as np

from efficientformer.architecture import Architecture
from efficientformer.progress import Progress
from efficientformer.search.choices import Choices
from efficientformer.search.costs import Costs, EmptyWindowError, Window
from efficientformer.search.exact import solve
from efficientformer.search.fitting import Fit
from efficientformer.search.scores import Tally, canonical
from efficientformer.search.variation import Candidate, Variation, new_networks, scored

FIRST = 0.375  # share of the evaluations that goes to random networks
ROUND = 8  # networks solved for at once: the best by the fit, the others by draws


def search_fitted(
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
        tally: scores networks, a round at a time.
        evaluations: how many networks may be scored.
        seed: of all randomness.
        progress: told of each round.

    Raises:
        EmptyWindowError: if no network was found in the window.
    """
    variation = Variation(choices, costs, window, random.Random(seed))
    generator = np.random.default_rng(seed)
    known: dict[Architecture, None] = {}
    first = new_networks(variation.sample, max(1, round(FIRST * evaluations)), known, window)
    found = scored(first, costs, tally.score)
    while len(known) < evaluations:
        best = min(found, key=lambda one: one.rank)
        if progress:
            progress.update(len(known), evaluations, f"best loss {best.score.loss:.4f}")
        count = min(ROUND, evaluations - len(known))
        fit = Fit(choices, [one.architecture for one in found], [one.score.loss for one in found])
        drawn = [_solved(fit, choices, costs, window, generator if turn else None) for turn in range(count)]
        new = [one for one in dict.fromkeys(drawn) if one is not None and one not in known]
        known |= dict.fromkeys(new)
        for make in (partial(variation.mutated, best.architecture), variation.sample):
            new += new_networks(make, count - len(new), known, window)
        if not new:
            break  # the window seems to hold no others
        found += scored(new, costs, tally.score)
    return min(found, key=lambda one: one.rank)


def _solved(
    fit: Fit, choices: Choices, costs: Costs, window: Window, generator: np.random.Generator | None
) -> Architecture | None:
    """The best network by fitted values, or by a draw of them; None if the program finds none."""
    try:
        return canonical(solve(choices, fit.values(generator), costs, window).architecture)
    except EmptyWindowError:
        return None
