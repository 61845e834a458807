"""Tables about the latency table: its rows, its calibration, and how far it is off."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from rich.table import Table

from efficientformer.latency.table import Fit, Row
from efficientformer.latency.table.audit import Audit
from efficientformer.layers import Layer
from efficientformer.terminal.table import facts_table, table

WORST = 5


def fit_table(fit: Fit, target: str) -> Table:
    """What rows are multiplied by."""
    made = table(f"calibration to {fit.networks} networks · {target}", ("kind", "factor of its rows"))
    for kind, factor in fit.factors.items():
        made.add_row(kind, f"{factor:.3f}")
    made.add_row("every layer", f"{fit.each:+.4f} ms")
    made.add_row("relative error, root mean square", f"{fit.residual:.1%}")
    return made


def kinds_table(rows: Mapping[Layer, Row], fit: Fit) -> Table:
    """Rows by kind: how many, and from what to what."""
    made = table("rows", ("kind", "rows", "least ms", "most ms", "median ± of a row", "factor"))
    kinds: dict[str, list[Row]] = {}
    for layer, row in rows.items():
        kinds.setdefault(layer.kind, []).append(row)
    for kind, some in kinds.items():
        times = [row.ms for row in some]
        spread = statistics.median(row.plus_minus_ms / row.ms for row in some)
        made.add_row(
            kind,
            str(len(some)),
            f"{min(times):.4f}",
            f"{max(times):.4f}",
            f"{spread:.1%}",
            f"{fit.factor(kind):.3f}",
        )
    return made


def rows_table(rows: Mapping[Layer, Row], fit: Fit) -> Table:
    """Every row, before and after calibration."""
    made = table("rows", ("layer", "expansion", "activation", "ms", "±", "calibrated ms"))
    for layer, row in rows.items():
        calibrated = fit.layer_ms(layer.kind, row.ms)
        made.add_row(
            str(layer),
            str(layer.expansion or "–"),
            layer.activation or "–",
            f"{row.ms:.4f}",
            f"{row.plus_minus_ms:.4f}",
            f"{calibrated:.4f}",
        )
    return made


def audit_table(audit: Audit) -> Table:
    """The audit in short."""
    whole, raw = audit.to_json(), audit.raw()
    verdicts = ", ".join(f"{count} {name}" for name, count in whole["verdicts"].items() if count)
    return facts_table(
        f"audit · {audit.target} · {whole['date']}",
        {
            "networks held out": str(len(audit.held)),
            "median error": f"{audit.median_error:.1%}",
            "largest error": f"{audit.max_error:.1%}",
            "median signed error": f"{audit.bias:+.1%}",
            "Spearman's rank correlation": f"{audit.spearman:.4f}",
            "within the predicted interval": f"{whole['within_interval']:.0%}",
            "as measured": "{median_error_percent:.1f} % median, {max_error_percent:.1f} % largest".format(
                **raw
            ),
            "batches were slower": "{:.2f} to {:.2f} times".format(*raw["slowed"]),
            "spread of the measurements": f"{whole['spread_percent']:.1f} % (median interquartile range)",
            "verdicts": verdicts,
        },
    )


def worst_table(audit: Audit) -> Table:
    """The networks it was furthest off on; latencies at the calibration's speed of the machine."""
    made = table("furthest off", ("network", "predicted ms", "measured ms", "n", "error"))
    for one in sorted(audit.held, key=lambda held: -abs(held.error))[:WORST]:
        made.add_row(
            str(one.architecture),
            f"{one.predicted.ms:.3f} ± {one.predicted.plus_minus_ms:.3f}",
            f"{one.took_ms:.3f}",
            str(len(one.measured.samples_ms)),
            f"{one.error:+.1%}",
        )
    return made
