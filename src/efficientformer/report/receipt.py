"""What a reader must know before trusting the figures, and how to get them again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from efficientformer.latency.measurement import NOISY, UNUSABLE
from efficientformer.report import wording
from efficientformer.report.trail import Trail

ASTRAY = 0.15  # a prediction or a machine further off than this is worth a warning

_MIDDLE = "The middle half of the samples spans"
VERDICTS = {
    "stable": f"{_MIDDLE} at most {100 * NOISY:.0f} % of the median: the figure can be quoted.",
    "noisy": f"{_MIDDLE} {100 * NOISY:.0f} to {100 * UNUSABLE:.0f} % of the median: "
    "trust only differences well above that.",
    "unusable": f"{_MIDDLE} more than {100 * UNUSABLE:.0f} % of the median: something else ran, or the clock "
    "changed. The networks took turns, so comparing them is fairer than any one figure; "
    "do not quote the milliseconds, measure again on a quiet machine.",
}
"""What a verdict means, in plain words."""


@dataclass(frozen=True)
class Concern:
    """Something that weakens the answer."""

    title: str
    text: str


def concerns(summary: dict[str, Any], preflight: dict[str, Any], trail: Trail) -> Iterator[Concern]:
    """What weakens the answer of a run, the weightiest first."""
    if summary["verdict"] != "stable":
        text = VERDICTS.get(summary["verdict"], "")
        yield Concern(f"The timing is {summary['verdict']}", text)
    yield from _near_budget(summary)
    yield from _astray(summary)
    yield from _unsettled(trail)
    yield from _drifted(summary, preflight)
    if files := summary["data"]["unreadable"]:
        count = f"{len(files)} file{'s' * (len(files) > 1)}"
        yield Concern(f"{count} could not be read", "Left out of training and scoring; named at the end.")


def _near_budget(summary: dict[str, Any]) -> Iterator[Concern]:
    low, high = next(c for c in summary["contenders"] if c["name"] == "slimmed")["latency"]["interval_ms"]
    tolerance = summary.get("tolerance", 0.0)
    limit = (1 + tolerance) * summary["budget_ms"]
    if low <= limit <= high:
        most = f"{100 * (1 + tolerance):.0f} % of the budget ({wording.ms(limit)} ms)"
        interval = f"The median's 95 % interval, {wording.ms(low)}–{wording.ms(high)} ms"
        yield Concern("Too close to call", f"{interval}, reaches over what the contract allows, {most}.")


def _astray(summary: dict[str, Any]) -> Iterator[Concern]:
    predicted, measured = summary["predicted_ms"], summary["measured_ms"]
    if abs(measured / predicted - 1) > ASTRAY:
        slack = " The search may have taken away more than it had to." if measured < predicted else ""
        yield Concern(
            "The prediction was off",
            f"The latency table said {wording.ms(predicted)} ms; the file took {wording.ms(measured)} ms, "
            f"{wording.change(measured / predicted)}.{slack}",
        )


def _unsettled(trail: Trail) -> Iterator[Concern]:
    """One factor is to lead from the table to any measurement; if it jumps, the machine did."""
    scales = [check.scale for check in trail.checks]
    if scales and max(scales) > (1 + ASTRAY) * min(scales):
        told = ", ".join(f"{scale:.2f}" for scale in scales)
        text = (
            f"One factor should lead from table to measurement; it came out as {told}. The last one counted."
        )
        yield Concern("Measurements during the search disagree", text)


def _drifted(summary: dict[str, Any], preflight: dict[str, Any]) -> Iterator[Concern]:
    """The unslimmed network was timed before and after: the machine may not have been the same twice."""
    first = preflight["greatest"]["median_ms"]
    last = next(c for c in summary["contenders"] if c["name"] == "unslimmed")["latency"]["median_ms"]
    if abs(last / first - 1) > ASTRAY:
        share = " The budget is a share of the first figure." if summary["budget"].endswith("%") else ""
        yield Concern(
            "The machine changed its pace during the run",
            f"The unslimmed network took {wording.ms(first)} ms before the search "
            f"(n = {wording.whole(preflight['greatest']['samples'])}) and {wording.ms(last)} ms after it, "
            f"{wording.change(last / first)}.{share}",
        )


_FLAGS = {
    "augmentation.min_area": "min-area",
    "augmentation.flip": "flip",
    "temperature.start": "tau-start",  # as version 0.1 had it
    "temperature.end": "tau-end",
    "temperature.noise": "noise",
    "sampling.tau_start": "tau-start",
    "sampling.tau_end": "tau-end",
    "sampling.noise": "noise",
    "sampling.paths": "paths",
    "sampling.elastic": "elastic",
}
"""Where the command line's name of a setting is not the job's."""


def repeat_command(job: dict[str, Any]) -> str:
    """The command line of a job over several lines; the folder of images by its last name only."""
    settings = {key: value for key, value in _flat(job) if key != "format" and not _is_fixed(key)}
    settings["data"] = Path(job["data"]).name
    given = ((_FLAGS.get(key, key.replace("_", "-")), value) for key, value in settings.items())
    # Of what may be empty, expansions alone are not by default.
    flags = (_flag(name, value) for name, value in given if value != [] or name == "expansions")
    lines = ["efficientformer slim"]
    for flag in flags:
        if len(lines[-1]) + len(flag) > 84:
            lines.append("   ")
        lines[-1] += f" {flag}"
    return " \\\n".join(lines)


def _is_fixed(key: str) -> bool:
    """Whether `slim` does not offer a setting: of augmentation it has crops and flips alone."""
    return key.startswith("augmentation.") and key not in _FLAGS


def _flat(job: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in job.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield key, value


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return f"--{name} {shlex.quote(str(value))}"


def shown_files(unreadable: Iterable[str], data: Path) -> Iterator[str]:
    """Lines of `path: reason` without the way to the folder of images (reasons may repeat the path)."""
    for line in unreadable:
        inside = line.replace(f"{data}{os.sep}", "")
        path = PurePath(inside.partition(": ")[0])
        outside = f"{path.parent.parent}{os.sep}"  # a link led elsewhere: class and file name remain
        yield inside.replace(outside, "") if path.is_absolute() else inside
