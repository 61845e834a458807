"""`efficientformer table`: built, shown and audited on a made-up clock; bad input is one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from efficientformer.cli import main
from efficientformer.latency.target import Target
from efficientformer.pipeline import table_job
from tests.latency.table.made import made_up, receipt
from tests.pipeline.test_table_job import network_ms

SPACE = ["--supernet", "xs", "--input-size", "32", "--classes", "3", "--kinds", "pool"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A built table's option; whatever is timed meanwhile is made up."""
    path = tmp_path_factory.mktemp("table") / "table.sqlite"
    with made_up(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            table_job,
            "time_networks",
            lambda networks, _: {one: receipt(network_ms(one)) for one in networks},
        )
        assert main(["table", "build", *SPACE, "--table", str(path)]) == 0
        yield ["--table", str(path)]


def test_building_again_adds_nothing(table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "build", *SPACE, *table, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["added"] == 0
    assert document["rows"] > 20
    assert document["fit"]["networks"] == 20


def test_a_table_of_any_space_that_slim_searches(
    table: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The options are those of slim; half the widths are half the rows, or so."""
    open_space = ["--kinds", "pool,ffn,attention", "--expansions", "2,3", "--stems", "stem_patch"]
    rows = {}
    for every in ("1", "2"):
        path = tmp_path / f"every-{every}.sqlite"
        asked = [
            *SPACE[:-2],
            *open_space,
            "--width-step",
            "8",
            "--every",
            every,
            "--table",
            str(path),
            "--json",
        ]
        assert main(["table", "build", *asked]) == 0
        rows[every] = json.loads(capsys.readouterr().out)["rows"]
    assert 0.4 < rows["2"] / rows["1"] < 0.7
    opened = table_job.open_built(path, Target())
    try:
        space = table_job.space_of(opened)
        assert (space.kinds, space.expansions) == (("pool", "ffn", "attention"), (2, 3))
        assert (space.stems, space.width_step) == (("stem_patch",), 8)
        assert opened.missing_layers(space.layers()) == []
    finally:
        opened.close()


def test_the_audit_as_a_document_and_a_file(
    table: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit.json"
    assert main(["table", "audit", "--networks", "5", *table, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(out.read_text())
    assert document["networks"] == 5
    assert {"median_error_percent", "max_error_percent", "spearman", "target", "date"} < set(document)


def test_rows_are_shown_by_kind_or_one_by_one(table: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "show", *table]) == 0
    assert {"stem", "embed", "pool", "head"} < set(capsys.readouterr().out.split())
    assert main(["table", "show", *table, "--kind", "stem"]) == 0
    assert "stem 3→16 @32×32" in capsys.readouterr().out
    assert main(["table", "show", *table, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all(row["files"] and row["ms"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--kind", "tapir"], "has no rows of kind 'tapir'; it has"),
        (["audit", "--networks", "2"], "--networks must be at least 3, not 2"),
        (["show", "--target", "openvino"], "has no rows for openvino"),
        (["build", "--supernet", "xxl"], "unknown supernet 'xxl'"),
        (["build", *SPACE, "--expansions", "two"], "--expansions 'two': give whole numbers"),
        (["build", *SPACE, "--every", "0"], "--every must be at least 1, not 0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, table: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", *arguments, *table]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
