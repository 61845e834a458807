"""What all tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 118  # when output is no terminal


def show(table: Table) -> None:
    """Print a table on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)


def table(title: str, columns: Sequence[str]) -> Table:
    """A table, its first column on the left, numbers on the right."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left")
    return made


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """Names and values."""
    made = table(title, ("", ""))
    made.columns[1].justify = "left"
    for name, value in facts.items():
        made.add_row(name, value)
    return made
