"""The whole job: export, time the whole, run the profiler in a process of its own, time the whole again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from efficientformer.latency.exports import exported
from efficientformer.latency.measure import measure_files
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.process import Process
from efficientformer.latency.subjects import Subject
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.profile.alone import blocks_alone, cannot
from efficientformer.profile.blocks import Map, map_of
from efficientformer.profile.findings import findings
from efficientformer.profile.grouping import by_block, by_kind, placed
from efficientformer.profile.result import Profile
from efficientformer.progress import Told
from efficientformer.runtimes import NoProfilerError, Trace, usable

_STEPS = 4
_FEWEST, _MOST, _PROFILED_MS = 20, 200, 3000.0


def profile(
    subject: Subject,
    target: Target,
    *,
    runs: int | None = None,
    told: Told | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> Profile:
    """Where a network's time goes on a target.

    The whole is timed without the profiler before and after it runs. Where the runtime has no profiler, each
    block of a network of ours is timed alone instead.

    Args:
        subject: the network, or an exported file.
        target: where.
        runs: inferences under the profiler; by default three seconds of them, 20 to 200.
        told: hears of every step.
        cache: where exports are kept; the user's cache folder if not given.
        settings: of `measure_files`, for each of the two times that the whole is timed.

    Raises:
        InputError: if the runtime has no profiler and the network is not of ours.
        MissingRuntimeError: if the runtime does not work here.
        ExportMismatchError: if the export does not compute what the network does.
    """
    usable(target.runtime, target.device)
    tell = told or (lambda *_: None)
    path, _ = exported(subject, target, cache)
    network = subject.build() if subject.build else None
    where = map_of(network, subject.image)
    tell(1, _STEPS, f"{subject.name} for {target}")
    whole = _Whole(subject.name, path, target, {"launches": 2, "seconds": 2.0, "min_samples": 40} | settings)
    before = whole.measure()
    tell(2, _STEPS, "the whole, before")
    try:
        trace = _traced(path, target, runs or _enough(before.median_ms))
    except NoProfilerError as error:
        if not isinstance(network, EfficientFormer):
            raise cannot(subject, target, _reason(error, path)) from None
        return _by_block_alone(subject, network, whole, where, before, _reason(error, path))
    tell(3, _STEPS, "the profiler")
    after = whole.measure()
    tell(4, _STEPS, "the whole, after")
    return _assembled(subject, target, where, before, after, trace)


@dataclasses.dataclass(frozen=True)
class _Whole:
    """The exported network as a whole."""

    name: str
    path: Path
    target: Target
    settings: dict[str, Any]

    def measure(self) -> Measurement:
        return measure_files({self.name: self.path}, self.target, **self.settings)[self.name]


def _enough(median_ms: float) -> int:
    return max(_FEWEST, min(_MOST, int(_PROFILED_MS / median_ms)))


def _traced(path: Path, target: Target, runs: int) -> Trace:
    with Process(path, target) as process:
        return process.operators(runs)


def _reason(error: NoProfilerError, path: Path) -> str:
    """What the runtime says, without the name of a file in a cache."""
    return str(error).removeprefix(f"{path}: ")


def _assembled(
    subject: Subject, target: Target, where: Map, before: Measurement, after: Measurement, trace: Trace
) -> Profile:
    operators = placed(trace, where)
    blocks = by_block(operators, where)
    return Profile(
        model=subject.name,
        target=str(target),
        macs=subject.macs,
        before=before,
        after=after,
        profiler=trace.profiler,
        profiled=_profiled(before, trace),
        operators=operators,
        blocks=blocks,
        kinds=by_kind(operators),
        findings=findings(operators, blocks),
    )


def _profiled(like: Measurement, trace: Trace) -> Measurement:
    """The whole under the profiler as a receipt; what else the machine did was not looked at."""
    plain = Measurement(like.model, like.target, trace.whole_ms, like.fingerprint, like.date)
    return plain.under(launches=1, pinned=like.conditions.pinned)


def _by_block_alone(
    subject: Subject, network: EfficientFormer, whole: _Whole, where: Map, before: Measurement, why: str
) -> Profile:
    blocks, call_ms = blocks_alone(network, whole.target, where)
    return Profile(
        model=subject.name,
        target=str(whole.target),
        macs=subject.macs,
        before=before,
        after=whole.measure(),
        profiler="",
        profiled=None,
        operators=(),
        blocks=blocks,
        findings=findings((), blocks),
        why_alone=why,
        call_ms=call_ms,
    )
