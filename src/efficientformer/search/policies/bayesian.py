"""Bayesian optimisation inside a latency window: a model of the loss says which networks are worth scoring.

A few random networks are scored first. Then each round fits a Gaussian process to all scores there are,
makes many networks of the window, children of the best and random ones, and scores those that the process
would have: the one of least expected loss, and for each other place of the round the best by a sample of what
the scores leave open (Thompson sampling), which tries what might be best as often as it is likely to be.
"""

from __future__ import annotations

import random
from functools import partial

import numpy as np

from efficientformer.architecture import Architecture
from efficientformer.progress import Progress
from efficientformer.search.policies.candidates import Candidate, new_networks, scored
from efficientformer.search.policies.evolution import child
from efficientformer.search.policies.gaussian_process import GaussianProcess, draw
from efficientformer.search.scores import Tally, canonical
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, Window
from efficientformer.search.space.variation import Variation

FIRST = 0.125  # share of the evaluations that goes to random networks
ROUND = 8  # networks scored together
PARENTS = 16  # of children, the best
CHILDREN, STRANGERS = 192, 64  # networks a round chooses from


def search_bayesian(
    choices: Choices,
    costs: Costs,
    window: Window,
    tally: Tally,
    evaluations: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Candidate:
    """The best network that is found in a window; a `WindowSearch`."""
    variation, generator = Variation(choices, costs, window, random.Random(seed)), np.random.default_rng(seed)
    known: dict[Architecture, None] = {}
    first = new_networks(variation.sample, max(1, round(FIRST * evaluations)), known, window)
    found = _sorted(scored(first, costs, tally.score))
    while len(known) < evaluations:
        if progress:
            progress.update(len(known), evaluations, f"best loss {found[0].score.loss:.4f}")
        seen = dict(known)
        some = new_networks(partial(child, variation, found[:PARENTS]), CHILDREN, seen, window)
        some += new_networks(variation.sample, STRANGERS, seen, window)
        if not some:
            break  # the window seems to hold no others
        process = GaussianProcess(
            choices, [one.architecture for one in found], [one.score.loss for one in found]
        )
        new = _chosen(process, some, min(ROUND, evaluations - len(known)), generator)
        known |= dict.fromkeys(map(canonical, new))
        found = _sorted([*found, *scored(new, costs, tally.score)])
    return found[0]


def _sorted(some: list[Candidate]) -> list[Candidate]:
    return sorted(some, key=lambda one: one.rank)


def _chosen(
    process: GaussianProcess, networks: list[Architecture], count: int, generator: np.random.Generator
) -> list[Architecture]:
    """The best by what is expected, and the best of each of some samples, all different."""
    mean, covariance = process.predict(networks)
    chosen: list[int] = []
    for losses in (mean, *draw(mean, covariance, generator, min(count, len(networks)) - 1)):
        chosen.append(next(int(one) for one in np.argsort(losses, kind="stable") if one not in chosen))
    return [networks[index] for index in chosen]
