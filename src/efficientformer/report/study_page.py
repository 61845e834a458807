"""The study's page: the paper's observations on this device, in one file that loads nothing.

efficientformer study --from study
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from efficientformer.files import write_atomically
from efficientformer.latency.measurement import Measurement
from efficientformer.report import wording
from efficientformer.report.study_chart import TONES, ratio_chart, variant_bars
from efficientformer.report.templates import environment, twice
from efficientformer.study.experiments import EXPERIMENTS
from efficientformer.study.results import MIXED, Study, Tried, read_study
from efficientformer.study.verdict import (
    BAND,
    FLAT,
    INEXPRESSIBLE,
    NO_CLAIM,
    NO_DIFFERENCE,
    REVERSED,
    SAME,
    UNDECIDED,
)

_BAND, _FLAT = f"{100 * BAND:.0f} %", f"{100 * FLAT:.0f} %"
MEANINGS = {
    SAME: f"the difference goes the paper’s way, and the ratio’s whole 95 % interval is more than {_BAND} "
    "off 1 (where the paper says “no slower”: it was not seen to be slower by more than that)",
    REVERSED: f"it goes the other way, and the whole interval is more than {_BAND} off 1",
    NO_DIFFERENCE: f"no difference of more than {_BAND} was seen, and one of more than {_FLAT} is ruled out",
    MIXED: "pairs of one observation came out differently",
    NO_CLAIM: "the paper makes no claim on this variant; what follows goes by this device alone",
    UNDECIDED: f"a timing is unusable, or the interval neither clears {_BAND} nor stays within {_FLAT}; "
    "of an observation: fewer than half of its pairs are decided",
    INEXPRESSIBLE: "the runtime’s converter cannot express a variant, or its file does not compute the same",
}
"""What a verdict means, in plain words."""


@dataclass(frozen=True)
class Where:
    """The conditions on one target, gathered from its receipts.

    Attributes:
        target: where.
        fingerprint: machine, runtime, versions.
        dates: when the first and the last receipt were taken.
        samples: of one variant, fewest to most.
        rounds: the same.
        launches: how often each process was started.
        pinned: whether every process was kept on processors of its own.
        set_aside: rounds in which the machine was slow, of all experiments.
        verdicts: receipts by verdict.
        reasons: why receipts are no better than they are.
    """

    target: str
    fingerprint: Mapping[str, str]
    dates: tuple[str, str]
    samples: str
    rounds: str
    launches: str
    pinned: bool
    set_aside: int
    verdicts: Mapping[str, int]
    reasons: tuple[str, ...]


def write_study(study: Path) -> Path:
    """Write a study's page, `study.html`, beside its `study.json`.

    Args:
        study: the file, or the folder that holds it.

    Returns:
        the page's path.

    Raises:
        InputError: if there is no study, or it is of another version.
    """
    folder = study if study.is_dir() else study.parent
    page = folder / "study.html"
    write_atomically(page, render(read_study(study)))
    return page


def render(study: Study) -> str:
    """The page of a study, as HTML."""
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            study=study,
            headline=headline(study),
            concerns=list(concerns(study)),
            conditions=list(conditions(study)),
            lone=len(study.targets) == 1,
            tones=TONES,
            meanings=_seen(study),
            bars=_bars,
            glance=_glance(study),
            command=repeat_command(study),
        )
    )


def _bars(tried: Tried, target: str) -> Markup:
    return twice(partial(variant_bars, tried, tried.trial(target)))


def _glance(study: Study) -> dict[str, Markup]:
    """Every pair at a glance, by target; targets without a single latency left out."""
    known = [target for target in study.targets if _receipts(study, target)]
    return {target: twice(partial(ratio_chart, study, target)) for target in known}


def headline(study: Study) -> str:
    """What came of it, in one line."""
    many = len(study.observations)
    noun = "observation" if many == 1 else "observations"
    if len(study.targets) > 1:
        return f"{_number(many).capitalize()} {noun} of the paper on {_number(len(study.targets))} targets."
    found = Counter(study.answer(one.number, study.targets[0]).verdict for one in study.observations)
    parts = [_counted(found[verdict], many, words) for verdict, words in _HEADLINES.items() if found[verdict]]
    return f"Of the paper’s {_number(many)} {noun}, {_listed(parts)}."


_HEADLINES = {
    SAME: ("holds here", "hold here"),
    REVERSED: ("is reversed", "are reversed"),
    NO_DIFFERENCE: ("makes no difference", "make no difference"),
    MIXED: ("holds in part", "hold in part"),
    UNDECIDED: ("is not decided", "are not decided"),
}


def _counted(count: int, many: int, words: tuple[str, str]) -> str:
    whole = "all " if count == many > 1 else ""
    return f"{whole}{_number(count)} {words[count != 1]}"


def _number(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six")
    return words[count] if count < len(words) else str(count)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def concerns(study: Study) -> Iterator[tuple[str, str]]:
    """What weakens the answers, as titles and texts."""
    for target in study.targets:
        receipts, where = _receipts(study, target), wording.target(target)
        unusable = sum(one.verdict == "unusable" for one in receipts)
        noisy = sum(one.verdict == "noisy" for one in receipts)
        if unusable:
            yield (
                f"{unusable} of {len(receipts)} timings on {where} are unusable",
                "Their rows are not decided, whatever the bars look like; measure again on a quiet machine.",
            )
        elif noisy:
            yield (
                f"{noisy} of {len(receipts)} timings on {where} are noisy",
                "Ratios suffer less, as variants took turns; do not quote the milliseconds.",
            )
        if lost := sum(len(tried.trial(target).failures) for tried in study.experiments):
            what = "1 variant" if lost == 1 else f"{lost} variants"
            yield f"{what} cannot be expressed on {where}", "The reasons stand in the tables."


def conditions(study: Study) -> Iterator[Where]:
    """Where each target's receipts were taken, and how."""
    for target in study.targets:
        if receipts := _receipts(study, target):
            yield _where(study, target, receipts)


def _where(study: Study, target: str, receipts: list[Measurement]) -> Where:
    dates = sorted(one.date for one in receipts)
    runs = [run for tried in study.experiments if (run := tried.trial(target).receipts)]
    return Where(
        target,
        receipts[0].fingerprint,
        (dates[0], dates[-1]),
        _span([len(one.samples_ms) for one in receipts]),
        _span([len(one.rounds) for one in receipts]),
        _span([one.conditions.launches for one in receipts]),
        all(one.conditions.pinned for one in receipts),
        sum(next(iter(run.values())).conditions.set_aside for run in runs),
        Counter(one.verdict for one in receipts),
        tuple(line for tried in study.experiments for line in _reasons(tried, target)),
    )


def _reasons(tried: Tried, target: str) -> Iterator[str]:
    """Why the receipts of one run are no better than they are, each reason once."""
    receipts = tried.trial(target).receipts
    by_reason: dict[str, list[str]] = {}
    for name, one in receipts.items():
        for reason in one.reasons:
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        whom = "all" if len(names) == len(receipts) else ", ".join(names)
        yield f"{tried.name}, {whom}: {reason}"


def _receipts(study: Study, target: str) -> list[Measurement]:
    return [one for tried in study.experiments for one in tried.trial(target).receipts.values()]


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return wording.whole(low) if low == high else f"{wording.whole(low)} to {wording.whole(high)}"


def _seen(study: Study) -> dict[str, str]:
    """The meanings of the verdicts that occur."""
    found = {
        study.answer(one.number, target).verdict for one in study.observations for target in study.targets
    }
    found |= {
        row.verdict for tried in study.experiments for trial in tried.trials for row in trial.comparisons
    }
    return {verdict: text for verdict, text in MEANINGS.items() if verdict in found}


def repeat_command(study: Study) -> str:
    """The command line that tries the same again."""
    flags = [f"--target {shlex.quote(target)}" for target in study.targets]
    if len(study.experiments) < len(EXPERIMENTS):
        flags += [f"--experiment {one.name}" for one in study.experiments]
    return " \\\n    ".join(["efficientformer study", *flags, "--out study"])
