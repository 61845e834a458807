"""`efficientformer study`: the paper's latency observations tried on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from efficientformer.cli.options import DEFAULT_TARGET, Json, Targets, print_json
from efficientformer.errors import InputError
from efficientformer.files import write_json
from efficientformer.latency.target import Target
from efficientformer.progress import Progress
from efficientformer.report.study_page import write_study
from efficientformer.study import run
from efficientformer.study.results import Study, read_study
from efficientformer.terminal.study import study_tables
from efficientformer.terminal.table import show


def study(
    *,
    target: Targets | None = None,
    experiment: Annotated[list[str] | None, Parameter(negative="")] = None,
    seconds: float = 0.6,
    launches: int = 3,
    out: Path | None = None,
    earlier: Annotated[Path | None, Parameter(name="--from")] = None,
    as_json: Json = False,
) -> None:
    """Why vision transformers are slow here: the paper's four observations tried on this device.

    Pairs that differ in one thing (a large kernel or small ones, reshapes or none, the norm, the activation)
    are exported, checked and timed in turns. Each comes out the same as in the paper, reversed, or without a
    difference here.

    Args:
        target: where; give it several times to compare targets.
        experiment: only this one, or those of an observation, 1 to 4; give it several times for more.
        seconds: time each variant gets, warm-up apart; a slow one gets more.
        launches: how often the measured processes are started anew.
        out: a folder for study.json, which holds every sample, and study.html, the page.
        earlier: measure nothing: show this study.json, or this folder's, and write its page anew.
        as_json: print JSON.
    """
    if earlier is not None:
        if target or experiment:
            raise InputError("study: --from shows an earlier study; leave --target and --experiment out")
        found, folder = read_study(earlier), out
        page = earlier if out is None else None
    else:
        found, folder, page = _measured(target, experiment, seconds, launches), out, None
    if folder is not None:
        write_json(folder / "study.json", found.to_json())
        page = folder
    written = write_study(page) if page is not None else None
    if as_json:
        print_json(found.to_json())
    else:
        _show(found, written)


def _measured(targets: list[str] | None, names: list[str] | None, seconds: float, launches: int) -> Study:
    if seconds <= 0 or launches < 1:
        raise InputError("study: --seconds must be above 0, --launches at least 1")
    where = [Target.parse(text) for text in dict.fromkeys(targets or [DEFAULT_TARGET])]
    experiments, progress = run.chosen(names or []), Progress()
    progress.stage(f"{len(experiments)} experiments on {', '.join(map(str, where))}")
    return run.study(
        where, experiments, told=progress.update, seconds=seconds, launches=launches, min_samples=36
    )


def _show(found: Study, page: Path | None) -> None:
    for part in study_tables(found):
        if isinstance(part, str):
            print(part)
        else:
            show(part)
    print(f"{page}" if page else "--out DIR writes the page with charts, and every sample")
