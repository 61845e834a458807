"""Studies with made-up receipts, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from efficientformer.latency.measurement import Conditions, Measurement
from efficientformer.study.experiment import Experiment
from efficientformer.study.experiments import EXPERIMENTS
from efficientformer.study.observations import OBSERVATIONS, SOURCE
from efficientformer.study.results import Study, Trial, Tried, VariantFacts
from efficientformer.study.verdict import compared

HERE = "onnxruntime:cpu:threads=1:precision=fp32"
FINGERPRINT = {
    "processor": "A processor",
    "cores": "2",
    "system": "Linux x86_64",
    "runtime": "onnxruntime 1.31.1",
    "exporter": "torch 2.13.0",
}


def receipt(
    rounds: Sequence[Sequence[float]], name: str = "model", launches: int = 1, target: str = HERE
) -> Measurement:
    return Measurement(
        name,
        target,
        tuple(float(sample) for part in rounds for sample in part),
        FINGERPRINT,
        "2026-03-04T05:06:07+00:00",
        tuple(len(part) for part in rounds),
        Conditions(launches=launches, pinned=True, set_aside=1, sentinel_ms=(2.0, 2.0)),
    )


def steady(ms: float, name: str = "model", *, noise: float = 0.004, target: str = HERE) -> Measurement:
    """Twelve rounds of five samples around a latency."""
    random = np.random.default_rng(sum(map(ord, name)))
    return receipt(ms * np.exp(noise * random.standard_normal((12, 5))), name, 3, target)


def trial(
    experiment: Experiment,
    ratios: Mapping[str, float],
    failures: Mapping[str, str],
    *,
    target: str = HERE,
    noise: float = 0.004,
) -> Trial:
    """Variants that take so many times the baseline's 1 ms; those not named take as long as it."""
    receipts = {
        one.name: steady(ratios.get(one.name, 1.0), one.name, noise=noise, target=target)
        for one in experiment.all
        if one.name not in failures
    }
    lost = {one.name: failures[one.name] for one in experiment.all if one.name in failures}
    return Trial(target, receipts, lost, compared(experiment, receipts, lost))


def made(
    ratios: Mapping[str, float] | None = None,
    failures: Mapping[str, str] | None = None,
    *,
    targets: Sequence[str] = (HERE,),
    experiments: Sequence[Experiment] = EXPERIMENTS,
    noise: float = 0.004,
) -> Study:
    """A study whose variants take so many times their baseline's time."""
    tried = [
        Tried(
            one.name,
            one.observation,
            one.title,
            one.about,
            tuple(VariantFacts(v.name, v.image, 1000, 2_000_000, v.expect, v.paper) for v in one.all),
            tuple(trial(one, ratios or {}, failures or {}, target=target, noise=noise) for target in targets),
        )
        for one in experiments
    ]
    return Study("0.2.0", "2026-03-04T05:06:07+00:00", tuple(targets), SOURCE, OBSERVATIONS, tuple(tried))
