"""Evolutionary search inside a latency window: (μ + λ), tournaments, mutation and crossover.

After Real et al. (AAAI 2019) and Guo et al. (ECCV 2020), but elitist: with inherited weights a score is the
same whenever it is asked for, so that nothing is gained by letting good networks die of age.
"""

from __future__ import annotations

import random

from efficientformer.architecture import Architecture
from efficientformer.progress import Progress
from efficientformer.search.policies.candidates import Candidate, new_networks, scored
from efficientformer.search.scores import Tally
from efficientformer.search.space.choices import Choices
from efficientformer.search.space.costs import Costs, Window
from efficientformer.search.space.variation import Variation

POPULATION = 16
TOURNAMENT = 3
CROSSED = 0.5  # share of children with two parents


def evolve(
    choices: Choices,
    costs: Costs,
    window: Window,
    tally: Tally,
    evaluations: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Candidate:
    """The best network that evolution finds in a window; a `WindowSearch`."""
    variation = Variation(choices, costs, window, random.Random(seed))
    known: dict[Architecture, None] = {}
    size = max(1, min(POPULATION, evaluations // 3))
    first = new_networks(variation.sample, size, known, window)
    population = _best(scored(first, costs, tally.score), size)
    while len(known) < evaluations:
        count = min(size, evaluations - len(known))
        children = new_networks(lambda: child(variation, population), count, known, window)  # noqa: B023
        if not children:
            break  # the window seems to hold no others
        population = _best([*population, *scored(children, costs, tally.score)], size)
        if progress:
            best = population[0]
            progress.update(len(known), evaluations, f"best loss {best.score.loss:.4f}")
    return population[0]


def _best(some: list[Candidate], count: int) -> list[Candidate]:
    return sorted(some, key=lambda one: one.rank)[:count]


def child(variation: Variation, population: list[Candidate]) -> Architecture | None:
    """A child of one or two of some networks, the best first; None if it did not get into the window."""
    generator = variation.generator
    if len(population) > 1 and generator.random() < CROSSED:
        child = variation.crossed(_parent(generator, population), _parent(generator, population))
        return variation.mutated(child) if child and generator.random() < 0.5 else child
    return variation.mutated(_parent(generator, population))


def _parent(generator: random.Random, population: list[Candidate]) -> Architecture:
    """The best of a few drawn at random; the population is sorted."""
    drawn = min(generator.randrange(len(population)) for _ in range(TOURNAMENT))
    return population[drawn].architecture
