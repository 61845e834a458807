"""The latency table's file: SQLite with receipts, calibrations and the fingerprint of where they are from.

Everything is kept by target, and written when it is measured: whatever is stopped goes on where it was.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.layers import Attention, Layer

FORMAT = "efficientformer.latency-table/3"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS layers (layer TEXT, target TEXT, PRIMARY KEY (layer, target));
CREATE TABLE IF NOT EXISTS files (
    chain TEXT, target TEXT, measurement TEXT NOT NULL, PRIMARY KEY (chain, target));
CREATE TABLE IF NOT EXISTS networks (
    id INTEGER PRIMARY KEY, architecture TEXT NOT NULL, target TEXT NOT NULL, measurement TEXT NOT NULL);
"""


class Store:
    """One target's part of a table's file.

    Args:
        path: the SQLite file; made if absent.
        target: where latency is measured.

    Raises:
        InputError: if the file is no latency table, or its receipts come from another machine or version.
    """

    def __init__(self, path: Path, target: Target) -> None:
        self.path, self.target = path, target
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path)
        except sqlite3.OperationalError as error:
            raise _no_table(path, error) from None
        try:
            self._claim()
        except (InputError, sqlite3.DatabaseError) as error:
            self._db.close()
            raise _no_table(path, error) from None

    def _claim(self) -> None:
        """Make the tables and write whose they are; refuse another program's file or another machine's."""
        names = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names and "about" not in names:
            raise InputError(f"{self.path}: is another program's database; give another --table")
        here = fingerprint(self.target)
        mine = {"format": FORMAT, f"fingerprint of {self.target}": json.dumps(here, sort_keys=True)}
        for key, value in mine.items() if names else ():
            row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] != value:
                raise InputError(
                    f"{self.path}: {_difference(row[0], here)}; measure anew with another --table"
                )
        self._db.executescript(_SCHEMA)
        self._db.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", mine.items())
        self._db.commit()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def receipts(self) -> dict[str, Measurement]:
        """Every receipt of this target by its chain's name."""
        rows = self._db.execute("SELECT chain, measurement FROM files WHERE target = ?", (str(self.target),))
        return {name: Measurement.from_json(json.loads(text)) for name, text in rows}

    def layers(self) -> list[Layer]:
        """The layers that rows were measured for, in that order."""
        query = "SELECT layer FROM layers WHERE target = ? ORDER BY rowid"
        return [_layer(json.loads(text)) for (text,) in self._db.execute(query, (str(self.target),))]

    def add(self, receipts: Mapping[str, Measurement], layers: Iterable[Layer] = ()) -> None:
        """Keep receipts, and the layers that have rows by them."""
        target = str(self.target)
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
                [(name, target, json.dumps(receipt.to_json())) for name, receipt in receipts.items()],
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO layers VALUES (?, ?)", [(layer.key(), target) for layer in layers]
            )

    def add_networks(self, networks: Mapping[Architecture, Measurement]) -> None:
        """Keep the receipts of whole networks."""
        with self._db:
            self._db.executemany(
                "INSERT INTO networks (architecture, target, measurement) VALUES (?, ?, ?)",
                [
                    (json.dumps(one.to_json()), str(self.target), json.dumps(receipt.to_json()))
                    for one, receipt in networks.items()
                ],
            )

    def networks(self) -> dict[Architecture, Measurement]:
        """The latest receipt of every whole network."""
        query = "SELECT architecture, measurement FROM networks WHERE target = ? ORDER BY id"
        return {
            Architecture.from_json(json.loads(one)): Measurement.from_json(json.loads(text))
            for one, text in self._db.execute(query, (str(self.target),))
        }

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO about VALUES (?, ?)", (f"{name} of {self.target}", json.dumps(value))
            )

    def noted(self, name: str) -> Any:
        """What was noted under a name, or None."""
        key = f"{name} of {self.target}"
        row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None


def _layer(document: dict[str, Any]) -> Layer:
    attention = document.pop("attention")
    return Layer(**document, attention=Attention(**attention) if attention else None)


def _no_table(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(f"{path}: is no latency table ({error}); give another --table")


def _difference(theirs: str, here: dict[str, str]) -> str:
    try:
        there = json.loads(theirs)
    except json.JSONDecodeError:
        return f"is a table of format {theirs!r}"
    key = next((key for key in here if there.get(key) != here[key]), "?")
    return f"was measured on another {key} ({there.get(key)}; here: {here.get(key)})"
