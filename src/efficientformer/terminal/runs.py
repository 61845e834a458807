"""Tables of a slimming run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from efficientformer.search.journal import Journal
from efficientformer.terminal.table import table


def summary_table(summary: Mapping[str, Any]) -> Table:
    """A run's end: budget, prediction, measurement, accuracy and size, beside the others of the same run."""
    contenders = {one["name"]: one for one in summary["contenders"]}
    peer = summary["contenders"][-1]["latency"]["median_ms"]
    title = f"{summary['target']} · one interleaved run, {summary['date']}"
    made = table(
        title, ("", "budget", "predicted", "measured ms", "p10–p90", "n", "× MobileNetV2", "params", "MACs")
    )
    for name, one in contenders.items():
        latency, ours = one["latency"], name == "slimmed"
        made.add_row(
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
    return made


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy before and after slimming, on the validation images."""
    made = table("accuracy on the validation images", ("", "top-1 %", "95 % interval", "images"))
    for name, score in summary["accuracy"].items():
        if score is None:
            made.add_row(name, "not trained", "", "")
            continue
        low, high = score["interval"]
        interval = f"{100 * low:.1f}–{100 * high:.1f}"
        made.add_row(name, f"{100 * score['top1']:.2f}", interval, str(score["images"]))
    return made


def front_table(front: Mapping[str, Any]) -> Table:
    """Networks for several budgets, the fastest first."""
    columns = (
        "budget",
        "measured ms",
        "n",
        "verdict",
        "top-1 %",
        "images",
        "params",
        "on the front",
        "network",
    )
    made = table(f"{front['target']} · one supernet, {len(front['networks'])} budgets", columns)
    for one in front["networks"]:
        made.add_row(
            one["budget"],
            f"{one['measured_ms']:.3f}",
            str(one["samples"]),
            one["verdict"],
            f"{100 * one['top1']:.2f}",
            str(one["images"]),
            f"{one['params'] / 1e6:.2f} M",
            "yes" if one["on_front"] else "no",
            one["architecture"],
        )
    return made


def steps_of(count: int) -> str:
    """So many steps, in words."""
    return "1 step" if count == 1 else f"{count} steps"


def journal_table(journal: Journal) -> Table:
    """The steps of a search."""
    title = f"{journal.path} · {steps_of(len(journal.steps))}"
    columns = ("step", "action", "predicted ms", "saved ms", "accuracy %", "drop", "turned down")
    made = table(title, columns)
    for step in journal.steps:
        one = step.chosen
        made.add_row(
            str(step.index),
            str(one.action),
            f"{one.predicted_ms:.3f}",
            f"{one.saved_ms:.3f}",
            f"{100 * one.accuracy:.1f}",
            f"{100 * one.drop:+.1f}",
            "; ".join(str(option.action) for option in step.turned_down),
        )
    made.columns[1].justify = made.columns[-1].justify = "left"
    return made
