"""Where the milliseconds are: the two networks' layers side by side, by name, stage by stage."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """One place in the network.

    Attributes:
        label: such as `block 2`; empty for what is there once.
        slimmed: what stands there in the network found; none if nothing does.
        slimmed_ms: its row of the latency table.
        unslimmed: the same of the unslimmed network.
        unslimmed_ms: its row.
    """

    label: str
    slimmed: str | None
    slimmed_ms: float | None
    unslimmed: str | None
    unslimmed_ms: float | None

    @property
    def longest_ms(self) -> float:
        """The longer of its two bars."""
        return max(self.slimmed_ms or 0.0, self.unslimmed_ms or 0.0)


@dataclass(frozen=True)
class LayerGroup:
    """A stage's layers, or the stem, or the head."""

    title: str
    rows: tuple[LayerRow, ...]

    @property
    def slimmed_ms(self) -> float:
        """Sum of the slimmed network's rows."""
        return sum(row.slimmed_ms or 0.0 for row in self.rows)

    @property
    def unslimmed_ms(self) -> float:
        """Sum of the unslimmed network's rows."""
        return sum(row.unslimmed_ms or 0.0 for row in self.rows)

    @property
    def longest_ms(self) -> float:
        """Its longest bar."""
        return max(row.longest_ms for row in self.rows)


def layer_groups(layers: dict[str, list[dict[str, Any]]]) -> tuple[LayerGroup, ...]:
    """The layers of `summary["layers"]`, those of one name on one row."""
    slimmed, unslimmed = _by_name(layers["slimmed"]), _by_name(layers["unslimmed"])
    names = sorted({*slimmed, *unslimmed}, key=_place)
    titles = dict.fromkeys(map(_title, names))
    return tuple(
        LayerGroup(title, tuple(_rows((n for n in names if _title(n) == title), slimmed, unslimmed)))
        for title in titles
    )


def _by_name(layers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer for layer in layers}


def _rows(
    names: Iterable[str], slimmed: dict[str, dict[str, Any]], unslimmed: dict[str, dict[str, Any]]
) -> Iterable[LayerRow]:
    for name in names:
        found, was = slimmed.get(name, {}), unslimmed.get(name, {})
        yield LayerRow(
            _label(name), found.get("layer"), found.get("table_ms"), was.get("layer"), was.get("table_ms")
        )


def _place(name: str) -> tuple[int, int, int, int]:
    """Where a layer stands in the order of execution: what changes the layout comes before what needs it."""
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    part = 0 if name.startswith("stem") else 2 if name.startswith("head") else 1
    changes_layout = name.endswith("flatten")  # in runs of version 0.1
    return part, numbers[0] if numbers else 0, numbers[1] if len(numbers) > 1 else -1, not changes_layout


def _title(name: str) -> str:
    match = re.match(r"stages\.(\d+)", name)
    return f"Stage {int(match[1]) + 1}" if match else "Stem" if name.startswith("stem") else "Head"


def _label(name: str) -> str:
    """Where in its stage a layer stands; empty where its kind says it all."""
    match = re.search(r"blocks\.(\d+)(\..+)?$", name)
    if match is None:
        return ""
    return f"before block {match[1]}" if match[2] else f"block {match[1]}"
