"""Models × targets: a latency for each pair, relative to one model in the same run, and how targets rank.

    efficientformer measure efficientformer_l1 timm/mobilenetv2_100 --target onnxruntime --target openvino

Targets are measured one after another; the models of one target take turns in one interleaved run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scipy.stats

from efficientformer.errors import InputError, PromiseError
from efficientformer.latency.bench import time_survivors
from efficientformer.latency.exports import exported
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.process import Process
from efficientformer.latency.subjects import Subject
from efficientformer.latency.target import Target
from efficientformer.progress import Told
from efficientformer.runtimes import usable

FORMAT = "efficientformer.matrix/1"
YARDSTICK = "timm/mobilenetv2_100"


@dataclass(frozen=True)
class Failure:
    """A pair that has no latency, and why."""

    model: str
    target: str
    why: str


@dataclass(frozen=True)
class Ranking:
    """How two targets agree on which model is faster.

    Attributes:
        one, other: the targets.
        spearman: rank correlation over the models that both ran; None below three of them.
        models: how many.
        misranked: the two models whose order is told most differently, and their latencies' ratio on each.
    """

    one: str
    other: str
    spearman: float | None
    models: int
    misranked: tuple[str, str, float, float] | None

    def __str__(self) -> str:
        one, other = Target.parse(self.one).short, Target.parse(self.other).short
        known = "too few models" if self.spearman is None else f"Spearman {self.spearman:.2f}"
        text = f"{one} and {other}: {known} (n = {self.models})"
        if self.misranked:
            slow, fast, here, there = self.misranked
            text += f"; {slow} takes {here:.2f} times as long as {fast} on {one}, {there:.2f} on {other}"
        return text


@dataclass(frozen=True)
class Matrix:
    """Receipts by target and model.

    Attributes:
        receipts: by target, then by model, in the order asked for.
        failures: pairs that could not be measured.
        yardstick: the model that the others are relative to.
    """

    receipts: Mapping[str, Mapping[str, Measurement]]
    failures: Sequence[Failure] = ()
    yardstick: str = YARDSTICK

    def ratio(self, target: str, model: str) -> float | None:
        """A model's median over the yardstick's in the same run."""
        row = self.receipts.get(target, {})
        if model not in row or self.yardstick not in row:
            return None
        return row[model].median_ms / row[self.yardstick].median_ms

    def rankings(self) -> list[Ranking]:
        """Every two targets."""
        return [self._ranking(one, other) for one, other in itertools.combinations(self.receipts, 2)]

    def _ranking(self, one: str, other: str) -> Ranking:
        a, b = self.receipts[one], self.receipts[other]
        both = [model for model in a if model in b]
        here, there = ([row[model].median_ms for model in both] for row in (a, b))
        spearman = float(scipy.stats.spearmanr(here, there).statistic) if len(both) > 2 else None
        return Ranking(one, other, spearman, len(both), _misranked(both, here, there))

    def to_json(self) -> dict[str, Any]:
        """As a JSON document, samples included."""
        return {
            "format": FORMAT,
            "yardstick": self.yardstick,
            "receipts": [one.to_json() for row in self.receipts.values() for one in row.values()],
            "failures": [vars(one) for one in self.failures],
            "rankings": [vars(one) for one in self.rankings()],
        }


def matrix_of(document: Mapping[str, Any]) -> Matrix:
    """The matrix that `Matrix.to_json` wrote."""
    receipts: dict[str, dict[str, Measurement]] = {}
    for one in map(Measurement.from_json, document["receipts"]):
        receipts.setdefault(one.target, {})[one.model] = one
    failures = [Failure(**one) for one in document["failures"]]
    return Matrix(receipts, failures, document["yardstick"])


def merged(earlier: Matrix, later: Matrix) -> Matrix:
    """Two matrices as one; of a target that both have, the later's receipts."""
    again = {*later.receipts, *(one.target for one in later.failures)}
    kept = [one for one in earlier.failures if one.target not in again]
    return Matrix({**earlier.receipts, **later.receipts}, [*kept, *later.failures], later.yardstick)


@dataclass
class _Filling:
    receipts: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def measure_matrix(
    subjects: Sequence[Subject],
    targets: Sequence[Target],
    *,
    told: Told | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> Matrix:
    """Export what has to be, then measure, target after target. A pair that fails is named, not fatal.

    Args:
        subjects: models by their order in the table; the yardstick is MobileNetV2 if it is among them, else
            the first.
        targets: where.
        told: hears of every export, and of every target when it has been measured.
        cache: where exports are kept; the user's cache folder if not given.
        settings: of `measure_files`.
    """
    filling, pairs = _Filling(), len(subjects) * len(targets)
    names = [one.name for one in subjects]
    for index, target in enumerate(targets):
        files: dict[str, Path] = {}
        for number, one in enumerate(subjects, index * len(subjects) + 1):
            try:
                usable(target.runtime, target.device)
                files[one.name] = _ready(one, target, cache)
            except (InputError, PromiseError) as error:
                filling.failures.append(Failure(one.name, str(target), str(error)))
            if told:
                told(number, pairs, f"{one.name} for {target}")
        receipts, crashed = time_survivors(files, target, **settings)
        filling.failures += [Failure(name, str(target), why) for name, why in crashed.items()]
        if receipts:
            filling.receipts[str(target)] = receipts
        if told:
            told(number, pairs, f"{len(receipts)} timed on {target.short}")
    yardstick = YARDSTICK if YARDSTICK in names else names[0]
    return Matrix(filling.receipts, filling.failures, yardstick)


def _ready(subject: Subject, target: Target, cache: Path | None) -> Path:
    """The subject's file for a target, which has run once: a file that crashes is found out here."""
    path, _ = exported(subject, target, cache)
    with Process(path, target) as process:
        process.time(1)
    return path


def _misranked(
    models: Sequence[str], here: Sequence[float], there: Sequence[float]
) -> tuple[str, str, float, float] | None:
    """The pair whose ratio differs most, of those that the targets put in opposite order."""
    found = [
        (models[i], models[j], here[i] / here[j], there[i] / there[j])
        for i, j in itertools.permutations(range(len(models)), 2)
        if here[i] > here[j] and there[i] < there[j]
    ]
    return max(found, key=lambda one: one[2] / one[3], default=None)
