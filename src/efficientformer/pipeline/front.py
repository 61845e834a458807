"""Several budgets from one supernet: what each came to, and which of them are on the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efficientformer.files import read_json, write_json
from efficientformer.pipeline.folder import RunFolder

FORMAT = "efficientformer.front/1"
FRONT = "front.json"
_KEPT = (
    *("target", "budget", "budget_ms", "measured_ms", "samples", "verdict"),
    *("top1", "images", "params", "macs", "architecture"),
)


def write_front(folder: RunFolder) -> None:
    """Write `front.json` of all that a run's folder holds, if that is more than one network."""
    summaries = [read_json(path) for path in sorted(folder.root.glob("*/summary.json"))]
    if folder.file("summary.json").exists():
        summaries.append(read_json(folder.file("summary.json")))
    path = folder.file(FRONT)
    if len(summaries) > 1 and not (path.exists() and read_json(path) == front(summaries)):
        write_json(path, front(summaries))


def front(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The networks by what their files took; `on_front` if none is as fast or faster and more accurate."""
    rows = sorted(summaries, key=lambda one: one["measured_ms"])
    networks, best = [], -1.0
    for one in rows:
        kept = {key: one[key] for key in _KEPT}
        networks.append({**kept, "on_front": one["top1"] > best})
        best = max(best, one["top1"])
    targets = dict.fromkeys(one["target"] for one in rows)
    return {"format": FORMAT, "target": ", ".join(targets), "networks": networks}
