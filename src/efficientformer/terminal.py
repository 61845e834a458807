"""Results as tables for people to read in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from efficientformer.latency.measure import Measurement
from efficientformer.model.card import ModelCard
from efficientformer.predict import Prediction
from efficientformer.search.journal import Journal

WIDTH = 118  # when output is no terminal


def show(table: Table) -> None:
    """Print a table on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def summary_table(summary: Mapping[str, Any]) -> Table:
    """A run's end: budget, prediction, measurement, accuracy and size, beside the others of the same run."""
    contenders = {one["name"]: one for one in summary["contenders"]}
    peer = summary["contenders"][-1]["latency"]["median_ms"]
    title = f"{summary['target']} · one interleaved run, {summary['date']}"
    table = _table(
        title, ("", "budget", "predicted", "measured ms", "p10–p90", "n", "× MobileNetV2", "params", "MACs")
    )
    for name, one in contenders.items():
        latency, ours = one["latency"], name == "slimmed"
        table.add_row(
            name,
            f"{summary['budget_ms']:.3f}" if ours else "",
            f"{summary['predicted_ms']:.3f}" if ours else "",
            f"{latency['median_ms']:.3f}",
            f"{latency['p10_ms']:.3f}–{latency['p90_ms']:.3f}",
            f"{latency['samples']}",
            f"{latency['median_ms'] / peer:.2f}",
            f"{one['params'] / 1e6:.2f} M",
            f"{one['macs'] / 1e6:.1f} M",
            style="bold" if ours else None,
        )
    return table


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy before and after slimming, on the validation images."""
    table = _table("accuracy on the validation images", ("", "top-1 %", "95 % interval", "images"))
    for name, score in summary["accuracy"].items():
        if score is None:
            table.add_row(name, "not trained", "", "")
            continue
        low, high = score["interval"]
        interval = f"{100 * low:.1f}–{100 * high:.1f}"
        table.add_row(name, f"{100 * score['top1']:.2f}", interval, str(score["images"]))
    return table


def receipts_table(receipts: Mapping[str, Measurement], sizes: Mapping[str, tuple[str, str, str]]) -> Table:
    """Latencies side by side; `sizes` gives input, parameters and MACs of each."""
    first = next(iter(receipts.values()))
    title = (
        f"{first.target} · {first.fingerprint['processor']} · {first.fingerprint['runtime']} · {first.date}"
    )
    columns = ("model", "input", "params", "MACs", "median ms", "p10–p90", "n", "× first", "verdict")
    table = _table(title, columns)
    for name, receipt in receipts.items():
        table.add_row(
            name,
            *sizes[name],
            f"{receipt.median_ms:.3f}",
            f"{receipt.p10_ms:.3f}–{receipt.p90_ms:.3f}",
            str(len(receipt.samples_ms)),
            f"{receipt.median_ms / first.median_ms:.2f}",
            receipt.verdict,
        )
    return table


def journal_table(journal: Journal) -> Table:
    """The steps of a search."""
    title = f"{journal.path} · {len(journal.steps)} steps"
    columns = ("step", "action", "predicted ms", "saved ms", "accuracy %", "drop", "turned down")
    table = _table(title, columns)
    for step in journal.steps:
        one = step.chosen
        table.add_row(
            str(step.index),
            str(one.action),
            f"{one.predicted_ms:.3f}",
            f"{one.saved_ms:.3f}",
            f"{100 * one.accuracy:.1f}",
            f"{100 * one.drop:+.1f}",
            "; ".join(str(option.action) for option in step.turned_down),
        )
    table.columns[1].justify = table.columns[-1].justify = "left"
    return table


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """Names and values."""
    table = _table(title, ("", ""))
    table.columns[1].justify = "left"
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def models_table(cards: Sequence[ModelCard]) -> Table:
    """The zoo, with what was published of its accuracy."""
    height, width = cards[0].input_size
    title = f"models at {height}×{width} · MACs of convolutions, linears and attention's products"
    columns = ("model", "params", "GMACs", "conv", "linear", "attn", "act. MB", "top-1 %", "published by")
    table = _table(title, columns)
    table.columns[-1].justify = "left"
    for card in cards:
        first, *others = [(f"{one.top1:.1f}", one.source) for one in card.published.values()] or [("", "")]
        macs = (card.macs.total, card.macs.convolution, card.macs.linear, card.macs.attention)
        table.add_row(
            card.name,
            f"{card.params / 1e6:.2f} M",
            *(f"{count / 1e9:.3f}" for count in macs),
            f"{card.inference_bytes / 1e6:.1f}",
            *first,
        )
        for other in others:
            table.add_row("", *[""] * 6, *other)
    return table


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """Pictures with their most probable classes."""
    table = _table("", ("image", "class", "index", "probability"))
    table.columns[1].justify = "left"
    for one in predictions:
        for place, guess in enumerate(one.guesses):
            name = one.image if place == 0 else ""
            table.add_row(name, guess.name, str(guess.index), f"{100 * guess.probability:.2f} %")
        if one.error:
            table.add_row(one.image, f"left out: {one.error}", "", "")
    return table
