"""The study: every experiment's variants exported, checked, and timed against each other on each target.

efficientformer study --target onnxruntime --target openvino --out study
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import efficientformer
from efficientformer.errors import InputError, PromiseError
from efficientformer.latency.bench import time_survivors
from efficientformer.latency.exports import exported
from efficientformer.latency.target import Target
from efficientformer.progress import Told
from efficientformer.runtimes import usable
from efficientformer.study.experiment import Experiment, Variant, subject_of
from efficientformer.study.experiments import EXPERIMENTS
from efficientformer.study.observations import OBSERVATIONS, SOURCE
from efficientformer.study.results import Study, Trial, Tried, VariantFacts
from efficientformer.study.verdict import compared

_ABSOLUTE = re.compile(r"(?<!\S)/(?:[^\s/]+/)+")  # the way to a file of this machine
_TRIES = 2  # an experiment whose receipts come out unusable is measured once more


def study(
    targets: Sequence[Target],
    experiments: Sequence[Experiment] = EXPERIMENTS,
    *,
    told: Told | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> Study:
    """Try experiments on targets. A variant that a runtime cannot express is named, not fatal.

    Args:
        targets: where.
        experiments: what to try, each in an interleaved run of its own.
        told: hears of every variant exported and every experiment measured.
        cache: where exports are kept; the user's cache folder if not given.
        settings: of `measure_files`.

    Raises:
        InputError: if a target cannot be used here.
    """
    for target in targets:
        usable(target.runtime, target.device)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    trials: dict[str, list[Trial]] = {one.name: [] for one in experiments}
    steps = _Steps(2 * len(targets) * sum(len(one.all) for one in experiments), told)
    for target in targets:
        for one in experiments:
            trials[one.name].append(_trial(one, target, cache, settings, steps))
    numbers = {one.observation for one in experiments}
    return Study(
        efficientformer.__version__,
        date,
        tuple(map(str, targets)),
        SOURCE,
        tuple(one for one in OBSERVATIONS if one.number in numbers),
        tuple(_tried(one, trials[one.name]) for one in experiments),
    )


def chosen(names: Sequence[str]) -> tuple[Experiment, ...]:
    """The experiments of some names, or of some observations' numbers; all of them if none is given.

    Raises:
        InputError: for a name that stands for none.
    """
    known = {one.name for one in EXPERIMENTS} | {str(one.observation) for one in EXPERIMENTS}
    for name in names:
        if name not in known:
            listed = ", ".join(one.name for one in EXPERIMENTS)
            raise InputError(
                f"experiment {name!r} is not known; give an observation, 1 to 4, or one of {listed}"
            )
    return tuple(
        one for one in EXPERIMENTS if not names or one.name in names or str(one.observation) in names
    )


class _Steps:
    """Counts what is done: a step for each export, and one for each variant timed."""

    def __init__(self, total: int, told: Told | None) -> None:
        self.done, self.total, self._told = 0, total, told

    def __call__(self, count: int, text: str) -> None:
        self.done += count
        if self._told:
            self._told(self.done, self.total, text)


def _trial(
    experiment: Experiment, target: Target, cache: Path | None, settings: Mapping[str, Any], steps: _Steps
) -> Trial:
    files: dict[str, Path] = {}
    failures: dict[str, str] = {}
    for variant in experiment.all:
        try:
            files[variant.name], _ = exported(subject_of(variant), target, cache)
        except (InputError, PromiseError) as error:
            failures[variant.name] = _ABSOLUTE.sub("", " ".join(str(error).split()))
        steps(1, f"{experiment.name}: {variant.name} exported for {target.runtime}")
    receipts, crashed = time_survivors(files, target, tries=_TRIES, **settings)
    failures |= {name: _ABSOLUTE.sub("", why) for name, why in crashed.items()}
    steps(len(experiment.all), f"{experiment.name} measured on {target.runtime}")
    return Trial(str(target), receipts, failures, compared(experiment, receipts, failures))


def _tried(experiment: Experiment, trials: Sequence[Trial]) -> Tried:
    told = (experiment.name, experiment.observation, experiment.title, experiment.about)
    return Tried(*told, tuple(_facts(one) for one in experiment.all), tuple(trials))


def _facts(variant: Variant) -> VariantFacts:
    subject = subject_of(variant)
    return VariantFacts(
        variant.name, variant.image, subject.params or 0, subject.macs or 0, variant.expect, variant.paper
    )
