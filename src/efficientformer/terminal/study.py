"""The study as tables: one for each observation on each target, and the answers in short."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from efficientformer.study.observations import Observation
from efficientformer.study.results import Study, Trial, Tried
from efficientformer.terminal.table import table

_COLUMNS = ("", "median ms", "95 %", "n", "timing", "× baseline (95 %)", "verdict")


def study_tables(study: Study) -> Iterator[Table | str]:
    """Tables, and lines below them: what follows from each row, or why nothing does."""
    for target in study.targets:
        for observation in study.observations:
            yield _observation_table(study, observation, target)
            yield from _notes(study, observation.number, target)
    yield answers_table(study)


def answers_table(study: Study) -> Table:
    """Observations × targets: the verdict its claims share, and how many rows have each."""
    made = table("the paper's observations", ("", *study.targets))
    for column in made.columns[1:]:
        column.justify = "left"
    for one in study.observations:
        answers = [study.answer(one.number, target) for target in study.targets]
        cells = [
            f"{answer.verdict}\n  "
            + "\n  ".join(f"{count} {verdict}" for verdict, count in answer.counts.items())
            for answer in answers
        ]
        made.add_row(f"{one.number} {one.title}", *cells)
    return made


def _observation_table(study: Study, observation: Observation, target: str) -> Table:
    title = f"{observation.number} {observation.title} · {target}\n{observation.claim}"
    receipts = [
        one for tried in study.of(observation.number) for one in tried.trial(target).receipts.values()
    ]
    if receipts:
        first = receipts[0]
        where = f"{first.fingerprint['processor']} · {first.fingerprint['runtime']} · {first.date}"
        title = f"{title}\n{where}"
    made = table(title, _COLUMNS)
    made.columns[-1].justify = "left"
    made.columns[0].no_wrap = True
    for tried in study.of(observation.number):
        made.add_row(f"[bold]{tried.name}[/bold]", *[""] * (len(_COLUMNS) - 1))
        _add_rows(made, tried, tried.trial(target))
    return made


def _add_rows(made: Table, tried: Tried, trial: Trial) -> None:
    for facts in tried.variants:
        receipt, row = trial.receipts.get(facts.name), trial.comparison(facts.name)
        timing = ("–", "–", "–", "–")
        if receipt is not None:
            low, high = receipt.interval_ms
            many = str(len(receipt.samples_ms))
            timing = (f"{receipt.median_ms:.3f}", f"{low:.3f}–{high:.3f}", many, receipt.verdict)
        ratio = str(row.ratio) if row and row.ratio else "–"
        verdict = row.verdict if row else "baseline"
        made.add_row(f" {facts.name}", *timing, ratio if row else "1", verdict)


def _notes(study: Study, observation: int, target: str) -> Iterator[str]:
    """What follows; rows of one experiment from which the same follows share a line."""
    for tried in study.of(observation):
        told: dict[str, list[str]] = {}
        for row in tried.trial(target).comparisons:
            told.setdefault(row.follows or f"{row.verdict}: {row.why}", []).append(row.variant)
        for text, variants in told.items():
            whom = "all" if len(variants) == len(tried.variants) - 1 > 1 else "; ".join(variants)
            yield f"  {tried.name} · {whom}: {text}"
