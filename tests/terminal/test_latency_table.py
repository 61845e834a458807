"""What people see of a latency table."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from efficientformer import Layer
from efficientformer.latency.table import Fit, Prediction, Row
from efficientformer.latency.table.audit import Audit, Held
from efficientformer.terminal import latency_table as tables
from tests.latency.table.made import TARGET, receipt
from tests.strategies import tiny

FIT = Fit(1.0, -0.004, 0.031, {"pool": 1.125, "embed": 0.875}, 14)
POOL = Layer("pool", 16, 16, 8, 8, 4, "gelu")
ROWS = {
    POOL: Row(0.05, 0.005, {}),
    Layer("pool", 32, 32, 8, 8, 4, "gelu"): Row(0.15, 0.003, {}),
    Layer("embed", 16, 32, 8, 8): Row(0.02, 0.001, {}),
}


def printed(table: Table) -> list[list[str]]:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return [line.split() for line in console.export_text().splitlines() if line.split()]


def test_rows_by_kind() -> None:
    lines = printed(tables.kinds_table(ROWS, FIT))
    assert ["pool", "2", "0.0500", "0.1500", "6.0%", "1.125"] in lines
    assert ["embed", "1", "0.0200", "0.0200", "5.0%", "0.875"] in lines


def test_a_row_before_and_after_calibration() -> None:
    lines = printed(tables.rows_table(ROWS, FIT))
    calibrated = 1.125 * 0.05 - 0.004
    assert ["pool", "16", "@8×8", "4", "gelu", "0.0500", "0.0050", f"{calibrated:.4f}"] in lines
    assert ["embed", "16→32", "@8×8", "–", "–", "0.0200", "0.0010", "0.0135"] in lines


def test_the_fit() -> None:
    lines = printed(tables.fit_table(FIT, str(TARGET)))
    assert ["pool", "1.125"] in lines
    assert lines[0][:4] == ["calibration", "to", "14", "networks"]
    assert any(line[-1] == "3.1%" for line in lines)
    assert ["every", "layer", "-0.0040", "ms"] in lines


def test_an_audit_and_its_worst() -> None:
    held = [
        Held(tiny(num_classes=index + 1), Prediction(said * (1 + index), 0.1), receipt(1.0 + index))
        for index, said in enumerate((1.0, 1.02, 1.3, 0.9, 1.01, 1.0, 0.99))
    ]
    audit = Audit(str(TARGET), held, FIT, 1, 2.0)
    short = printed(tables.audit_table(audit))
    assert any(line[-1] == "1.0%" and "median" in line for line in short)
    assert any(line[-1] == "30.0%" and "largest" in line for line in short)
    worst = [line for line in printed(tables.worst_table(audit)) if line[-1].endswith("%")]
    assert len(worst) == tables.WORST
    assert [line[-1] for line in worst[:2]] == ["+30.0%", "-10.0%"]
    assert "21" in worst[0]  # n
