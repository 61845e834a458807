"""`efficientformer replay`: a run's journal, applied anew."""

from __future__ import annotations

from pathlib import Path

from efficientformer.cli.options import Json, print_json
from efficientformer.latency.subjects import read_architecture
from efficientformer.search.journal import Journal, step_of
from efficientformer.search.journal import replay as replay_journal
from efficientformer.terminal.runs import journal_table, steps_of
from efficientformer.terminal.table import show


def replay(run: Path, *, as_json: Json = False) -> None:
    """A run's journal: every step, applied anew; an error if it does not lead to the network found.

    Args:
        run: a run's folder.
        as_json: print the number of steps, the step of the network found, and its architecture as JSON.
    """
    journal = Journal(run / "journal.jsonl")
    path = replay_journal(journal)
    found = read_architecture(run)
    step = step_of(found, path, journal)
    if as_json:
        print_json({"steps": len(path) - 1, "found_at_step": step, "architecture": found.to_json()})
        return
    show(journal_table(journal))
    print(f"replayed {steps_of(len(path) - 1)}; step {step} is the network found: {found}")
    print("(P pooling, F unified FFN, A attention block; blocks are counted from 0, stages from 1)")
