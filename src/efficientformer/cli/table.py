"""`efficientformer table`: the latency table of a search space, built, shown and audited."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from efficientformer.cli.options import DEFAULT_TARGET, Json, TargetText, print_json
from efficientformer.cli.space import DEFAULT_SPACE, SpaceOptions
from efficientformer.errors import InputError
from efficientformer.files import write_json
from efficientformer.latency.target import Target
from efficientformer.pipeline import table_job
from efficientformer.search.space.search_space import supernet_space
from efficientformer.terminal import latency_table as tables
from efficientformer.terminal.table import show as show_table

DEFAULT_TABLE = Path("latency.sqlite")

TablePath = Annotated[Path, Parameter(name="--table", help="The table's file, SQLite.")]

table = App(name="table", help="The latency table of a search space: build it, show it, audit it.")


@table.command
def build(
    *,
    supernet: str = "s",
    input_size: int = 224,
    classes: int = 1000,
    space: SpaceOptions = DEFAULT_SPACE,
    target: TargetText = DEFAULT_TARGET,
    path: TablePath = DEFAULT_TABLE,
    every: int = 1,
    networks: int = table_job.CALIBRATION,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Measure every layer of a search space, and calibrate to whole networks. A stopped build goes on.

    Args:
        supernet: the space, by the name of its largest network: xs, s, m or l7.
        input_size: pixels of a side.
        classes: outputs of the networks.
        space: what it has to choose from.
        target: where to measure.
        path: the table's file.
        every: which widths of blocks, stems and heads to measure, the rest being interpolated: 2 is half
            the work, and what slim does by itself.
        networks: how many whole networks to calibrate to.
        seed: of their draw.
        as_json: print JSON.
    """
    whole = supernet_space(
        supernet,
        input_size=input_size,
        num_classes=classes,
        **space.read(),
    )
    built = table_job.build(whole, path, Target.parse(target), networks=networks, seed=seed, every=every)
    if as_json:
        print_json(built.to_json())
    else:
        show_table(tables.fit_table(built.fit, built.target))
        print(f"  {built.table}: {built.rows} rows ({built.added} new) from {built.files} files")


@table.command
def show(
    *,
    target: TargetText = DEFAULT_TARGET,
    path: TablePath = DEFAULT_TABLE,
    kind: str | None = None,
    as_json: Json = False,
) -> None:
    """What is in a table: rows by kind, or every row of one kind.

    Args:
        target: where its rows were measured.
        path: the table's file.
        kind: list the rows of this kind of layer.
        as_json: print JSON, every row with the files it follows from.
    """
    opened = table_job.open_filled(path, Target.parse(target))
    try:
        rows, fit = opened.rows(), opened.fit
    finally:
        opened.close()
    if as_json:
        print_json(
            {
                "target": str(Target.parse(target)),
                "fit": dataclasses.asdict(fit),
                "rows": [
                    {"layer": dataclasses.asdict(layer), **dataclasses.asdict(row)}
                    for layer, row in rows.items()
                ],
            }
        )
    elif kind is not None:
        chosen = {layer: row for layer, row in rows.items() if layer.kind == kind}
        if not chosen:
            known = ", ".join(dict.fromkeys(layer.kind for layer in rows))
            raise InputError(f"{path}: has no rows of kind {kind!r}; it has {known}")
        show_table(tables.rows_table(chosen, fit))
    else:
        show_table(tables.kinds_table(rows, fit))


@table.command
def audit(
    *,
    target: TargetText = DEFAULT_TARGET,
    path: TablePath = DEFAULT_TABLE,
    networks: int = 100,
    seed: int = 1,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Predictions against end to end, on random networks that the table was not calibrated to.

    Args:
        target: where.
        path: the table's file.
        networks: how many.
        seed: of their draw; another seed draws others.
        out: also write every network to this JSON file.
        as_json: print JSON.
    """
    found = table_job.audit(path, Target.parse(target), networks=networks, seed=seed)
    if out is not None:
        write_json(out, found.to_json())
    if as_json:
        print_json(found.to_json())
    else:
        show_table(tables.audit_table(found))
        show_table(tables.worst_table(found))
