"""`efficientformer profile`: where a network's time goes."""

from __future__ import annotations

from pathlib import Path

from efficientformer.cli.options import DEFAULT_TARGET, Json, TargetText, print_json
from efficientformer.errors import InputError
from efficientformer.files import write_json
from efficientformer.latency.subjects import subject
from efficientformer.latency.target import Target
from efficientformer.profile import Profile
from efficientformer.profile import profile as take_profile
from efficientformer.progress import Progress
from efficientformer.report.profile_page import write_profile
from efficientformer.terminal import profile as tables
from efficientformer.terminal.table import show


def profile(
    name: str,
    *,
    target: TargetText = DEFAULT_TARGET,
    input_size: int | None = None,
    runs: int | None = None,
    seconds: float = 2.0,
    launches: int = 2,
    out: Path | None = None,
    html: Path | None = None,
    as_json: Json = False,
) -> None:
    """Where a network's time goes, by operator and by block, from the runtime's own profiler.

    Args:
        name: a preset, a timm/NAME peer, a run folder, an architecture.json file or an exported file.
        target: where.
        input_size: pixels of a side; the model's own by default.
        runs: inferences under the profiler; by default three seconds of them, 20 to 200.
        seconds: time that the whole is measured for, before the profile and again after it.
        launches: how often its process is started anew each time.
        out: also write everything, samples included, to this JSON file.
        html: also write a page with drawings to this file.
        as_json: print JSON.
    """
    where = Target.parse(target)
    if runs is not None and runs < 1:
        raise InputError(f"profile: --runs must be a whole number from 1, not {runs}")
    progress = Progress()
    taken = take_profile(
        subject(name, input_size, [where]),
        where,
        runs=runs,
        told=progress.update,
        seconds=seconds,
        launches=launches,
    )
    if out:
        write_json(out, taken.to_json())
    if html:
        write_profile(taken, html)
    if as_json:
        print_json(taken.to_json())
    else:
        _show(taken)


def _show(taken: Profile) -> None:
    show(tables.blocks_table(taken))
    if taken.operators:
        show(tables.kinds_table(taken))
    for line in tables.profile_notes(taken):
        print(line)
