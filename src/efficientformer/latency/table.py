"""The latency table: what each layer costs on a target, in one SQLite file; the sum predicts a network.

Layers are timed alone, their weights warm in the caches. Whole networks are slower by what it takes to
stream their weights, which a sum of rows cannot know; so a few whole networks are measured too, and the
prediction is

    latency = scale · (a · sum of rows + b · megabytes of weights),   a, b ≥ 0

with a and b fitted to those networks (`calibrate`) and the scale, 1 at first, corrected by networks that a
search measures on its way (`verify`). Both terms shrink when a network is slimmed, as far as rows are exact.

The table is filled as layers are asked for and kept row by row, so that a stopped build goes on where it
was. A table of another machine, runtime or version is refused.
"""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.optimize
from torch import nn

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measure import in_process, measure
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import deployed_layer, input_shape
from efficientformer.layers import Layer
from efficientformer.runtimes import Traced, usable
from efficientformer.runtimes.base import random_image

FORMAT = "efficientformer.latency-table/1"
CALL = "call"  # the row of an all but empty model: what a call costs before any layer
_BATCH = 16  # rows exported and timed together

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    layer TEXT, target TEXT, measurement TEXT NOT NULL, PRIMARY KEY (layer, target));
CREATE TABLE IF NOT EXISTS networks (
    id INTEGER PRIMARY KEY, architecture TEXT NOT NULL, target TEXT NOT NULL, measurement TEXT NOT NULL);
"""

RowsDone = Callable[[int, int], None]
"""Told (rows done, rows to do)."""


@dataclass(frozen=True)
class Prediction:
    """A network's latency as the table has it.

    Attributes:
        ms: milliseconds, calibrated.
        plus_minus_ms: from the rows' 95 % intervals and the calibration's residual.
    """

    ms: float
    plus_minus_ms: float


@dataclass(frozen=True)
class Fit:
    """A calibration: latency = a · sum of rows + b · megabytes of weights.

    Attributes:
        a: factor of the sum.
        b: milliseconds a megabyte.
        residual: root mean square of the relative errors on the networks it was fitted to.
    """

    a: float = 1.0
    b: float = 0.0
    residual: float = 0.0


class LatencyTable:
    """The rows of one target.

    Args:
        path: the SQLite file; made if absent.
        target: where latency is measured.

    Raises:
        InputError: if the file is no latency table, or its rows come from another machine or version.
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
        self._rows = {
            layer: Measurement.from_json(json.loads(text))
            for layer, text in self._db.execute(
                "SELECT layer, measurement FROM rows WHERE target = ?", (str(target),)
            )
        }
        self.fit, self.scale = Fit(), 1.0

    def _claim(self) -> None:
        """Make the tables and write whose they are; refuse another program's file or another machine's."""
        names = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names and "about" not in names:
            raise InputError(f"{self.path}: is another program's database; give another --table")
        self._db.executescript(_SCHEMA)
        here = fingerprint(self.target)
        mine = {"format": FORMAT, f"fingerprint of {self.target}": json.dumps(here, sort_keys=True)}
        for key, value in mine.items():
            row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] != value:
                raise InputError(
                    f"{self.path}: {_difference(row[0], here)}; measure anew with another --table"
                )
            self._db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (key, value))
        self._db.commit()

    def rows(self) -> dict[str, Measurement]:
        """Every row of this target: layer key to receipt."""
        return dict(self._rows)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def missing(self, architectures: Iterable[Architecture]) -> list[Layer]:
        """The layers of some architectures that have no row yet, each once."""
        layers = dict.fromkeys(layer for one in architectures for layer in one.layers())
        return [layer for layer in layers if layer.key() not in self._rows]

    def fill(self, architectures: Iterable[Architecture], progress: RowsDone | None = None) -> int:
        """Measure what `predict` will need for some architectures and the table lacks.

        Args:
            architectures: networks to be predicted.
            progress: told after each batch of rows, which is then on disk.

        Returns:
            how many rows were added.
        """
        missing = self.missing(architectures)
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            self._store(measure_layers(batch, self.target, with_call=CALL not in self._rows))
            if progress:
                progress(start + len(batch), len(missing))
        return len(missing)

    def _store(self, receipts: dict[str, Measurement]) -> None:
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)",
                [(key, str(self.target), json.dumps(receipt.to_json())) for key, receipt in receipts.items()],
            )
        self._rows |= receipts

    def layer_ms(self, layer: Layer) -> float:
        """What a layer adds to a call, not calibrated: its row less the empty call's, never below zero."""
        if layer.key() not in self._rows:
            raise InputError(f"{self.path}: has no row for {layer}; fill the table first")
        return max(0.0, self._rows[layer.key()].median_ms - self._rows[CALL].median_ms)

    def sum_ms(self, architecture: Architecture) -> float:
        """One call and all layers, not calibrated."""
        layers = sum(map(self.layer_ms, architecture.layers()))
        return self._rows[CALL].median_ms + layers

    def predict(self, architecture: Architecture) -> Prediction:
        """A network's latency from its layers' rows and its weights.

        Raises:
            InputError: if a row is missing (`fill` measures it).
        """
        fit = self.fit
        total = self.scale * (fit.a * self.sum_ms(architecture) + fit.b * megabytes(architecture))
        rows = self.scale * fit.a * self._uncertain_ms(architecture)
        return Prediction(total, math.hypot(rows, 1.96 * fit.residual * total))

    def _uncertain_ms(self, architecture: Architecture) -> float:
        """Half the rows' intervals: equal layers share a row and its error, other rows err independently.

        The call's row is added once and subtracted from every layer.
        """
        counts = Counter(layer.key() for layer in architecture.layers())
        counts[CALL] = abs(1 - counts.total())
        spans = {key: self._rows[key].interval_ms for key in counts}
        return math.hypot(*(counts[key] * (high - low) / 2 for key, (low, high) in spans.items()))

    def calibrate(self, networks: dict[Architecture, Measurement]) -> Fit:
        """Fit a and b to whole networks that were measured in one run: least squares of the relative errors.

        The fit holds for this object; whoever wants it again keeps it. The receipts go into the file.
        """
        with self._db:
            self._db.executemany(
                "INSERT INTO networks (architecture, target, measurement) VALUES (?, ?, ?)",
                [
                    (json.dumps(one.to_json()), str(self.target), json.dumps(receipt.to_json()))
                    for one, receipt in networks.items()
                ],
            )
        features = np.array([[self.sum_ms(one), megabytes(one)] for one in networks])
        measured = np.array([receipt.median_ms for receipt in networks.values()])
        relative = features / measured[:, None]
        (a, b), _ = scipy.optimize.nnls(relative, np.ones(len(networks)))
        residual = float(np.sqrt(np.mean((relative @ (a, b) - 1) ** 2)))
        self.fit = Fit(float(a), float(b), residual)
        return self.fit

    def verify(self, architecture: Architecture, measured_ms: float) -> float:
        """Set the scale so that one whole network, measured near the budget, is predicted exactly.

        One factor for all networks keeps their order, so a search path does not depend on it: this moves
        only the point of the path where the budget is met. The scale belongs to the search, whose journal
        keeps it; the file does not.
        """
        self.scale *= measured_ms / self.predict(architecture).ms
        return self.scale


def megabytes(architecture: Architecture) -> float:
    """Size of a network's float32 weights."""
    return architecture.params * 4e-6


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


def measure_layers(
    layers: Sequence[Layer], target: Target, *, with_call: bool = False
) -> dict[str, Measurement]:
    """Time layers one by one in their deployed form, in interleaved rounds; receipts by layer key.

    Args:
        layers: what to time.
        target: where.
        with_call: also time an all but empty model, under the key `CALL`.
    """
    runtime = usable(target.runtime, target.device)
    traced = {layer.key(): Traced(deployed_layer(layer), input_shape(layer)) for layer in layers}
    if with_call:
        traced[CALL] = Traced(nn.ReLU(), (1, 8))
    with tempfile.TemporaryDirectory() as folder:
        files = runtime.export_many(list(traced.values()), Path(folder))
        subjects = {}
        for (key, item), file in zip(traced.items(), files, strict=True):
            session, array = runtime.load(file, target.settings), random_image(item.shape)
            subjects[key] = in_process(lambda session=session, array=array: session.run(array))
        return measure(subjects, target, rounds=8, seconds=0.15, min_samples=24)
