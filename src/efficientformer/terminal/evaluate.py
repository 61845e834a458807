"""Tables of accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from efficientformer.evaluation.compare import Comparison
from efficientformer.evaluation.result import Evaluation
from efficientformer.evaluation.score import wilson
from efficientformer.terminal.table import table

SHOWN = 10  # worst classes, most confused pairs


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table:
    """Networks side by side on the same pictures."""
    pictures = evaluations[0].pictures
    part = f"{pictures.split}, {len(pictures.source)} of {pictures.of} pictures"
    title = f"{pictures.data.resolve().name} · {part}, {len(pictures.classes)} classes · [95 % interval]"
    narrow = [one for one in evaluations if one.top1_all_outputs is not None]
    columns = ["model", "on", "protocol", "images", "top-1 %", "top-5 %", "loss", "ECE %"]
    made = table(title, columns + (["of all outputs %"] if narrow else []))
    made.columns[1].justify = made.columns[2].justify = "left"
    made.columns[0].overflow = "fold"
    names = short_names([one.model for one in evaluations])
    for one in evaluations:
        accuracy = one.accuracy
        top5 = "" if accuracy.top5 is None else _with_interval(accuracy.top5, accuracy.score.images)
        row = (
            names[one.model],
            one.where,
            str(one.protocol),
            str(accuracy.score.images),
            _with_interval(accuracy.score.top1, accuracy.score.images),
            top5,
            f"{accuracy.score.loss:.4f}",
            f"{100 * accuracy.calibration_error:.2f}",
        )
        outside = "" if one.top1_all_outputs is None else f"{100 * one.top1_all_outputs:.2f}"
        made.add_row(*row, *([outside] if narrow else []))
    return made


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """Networks beside the first one, picture by picture."""
    reference = comparisons[0].reference
    names = short_names([reference, *(one.model for one in comparisons)])
    title = f"beside {names[reference]}, picture by picture · Δ in percentage points [95 % interval]"
    made = table(title, ("model", "same class %", "Δ top-1", "made wrong", "made right", "p (McNemar)"))
    made.columns[0].overflow = "fold"
    for one in comparisons:
        low, high = one.interval
        made.add_row(
            names[one.model],
            f"{100 * one.agreement:.2f}",
            f"{100 * one.difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]",
            str(one.lost),
            str(one.won),
            f"{one.p_value:.3f}",
        )
    return made


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Each network's name without its folder, where that still tells it from the others."""
    last = {one: Path(one).name if Path(one).exists() else one for one in models}
    counted = list(last.values())
    return {one: name if counted.count(name) == 1 else one for one, name in last.items()}


def classes_table(evaluation: Evaluation) -> Table:
    """The classes that the network has right least often."""
    confusion, classes = evaluation.accuracy.confusion, evaluation.pictures.classes
    images, right = confusion.sum(1), confusion.diagonal()
    seen = [index for index in np.argsort(right / np.maximum(1, images), kind="stable") if images[index]]
    title = f"{Path(evaluation.model).name} · the worst classes"
    made = table(title, ("class", "images", "right", "accuracy %"))
    for index in seen[:SHOWN]:
        share = right[index] / images[index]
        made.add_row(
            classes[index],
            str(images[index]),
            str(right[index]),
            _with_interval(float(share), int(images[index])),
        )
    return made


def confused_table(evaluation: Evaluation) -> Table:
    """The pairs of classes that the network confuses most often."""
    title = f"{Path(evaluation.model).name} · most confused"
    made = table(title, ("class", "taken for", "images", "of its images %"))
    made.columns[1].justify = "left"
    confusion, classes = evaluation.accuracy.confusion, evaluation.pictures.classes
    for known, guessed in _most_confused(confusion):
        count = confusion[known, guessed]
        share = f"{100 * count / confusion[known].sum():.1f}"
        made.add_row(classes[known], classes[guessed], str(count), share)
    return made


def _most_confused(confusion: np.ndarray) -> Iterable[tuple[int, int]]:
    wrong = confusion - np.diag(confusion.diagonal())
    for place in np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]:
        known, guessed = divmod(int(place), len(wrong))
        if wrong[known, guessed]:
            yield known, guessed


def _with_interval(share: float, images: int) -> str:
    low, high = wilson(share, images)
    return f"{100 * share:.2f} [{100 * low:.1f}–{100 * high:.1f}]"
