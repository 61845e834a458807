"""Rows: measured where they are missing, kept file by file, interpolated between widths where allowed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.latency.measure import SLOW
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table.chains import (
    CALL,
    EMPTY,
    Chain,
    at_speed,
    combined,
    measure_chains,
    name_of,
    recipe,
)
from efficientformer.latency.table.interpolate import Weights, family, left_out_error, neighbours
from efficientformer.latency.table.store import Store
from efficientformer.latency.target import Target
from efficientformer.layers import Layer

_REFERENCE = "reference"
_BATCH = 16  # files exported and timed together, and a layer's last ones
_TRIES = 2
LEAST_MS = 1e-4  # what a row is at least: differences of files are noisy

RowsDone = Callable[[int, int], None]
"""Told (rows done, rows to do)."""


@dataclass(frozen=True)
class Row:
    """What a layer adds to a network, not calibrated.

    Attributes:
        ms: milliseconds, above 0.
        plus_minus_ms: from the 95 % intervals of its files, or of the rows it is interpolated from.
        files: the receipts it follows from, by name, with their weights; more in `LatencyTable.receipts`.
        interpolated: whether it is no measurement of this layer.
    """

    ms: float
    plus_minus_ms: float
    files: Mapping[str, float]
    interpolated: bool = False


class Rows:
    """The rows of one target.

    Args:
        path: the SQLite file; made if absent.
        target: where latency is measured.
        may_interpolate: take layers without a row from rows of other widths around them. `fill` then measures
            only what cannot be.

    Raises:
        InputError: if the file is no latency table, or its rows come from another machine or version.
    """

    def __init__(self, path: Path, target: Target, *, may_interpolate: bool = False) -> None:
        self.path, self.target, self.may_interpolate = path, target, may_interpolate
        self._store = Store(path, target)
        self._receipts = self._store.receipts()
        self._reference_ms: float | None = self._store.noted(_REFERENCE)  # of the first batch of files
        self._known = dict.fromkeys(layer for layer in self._store.layers() if self._measured(layer))
        self._rows: dict[Layer, Row] = {}
        self._around: dict[Layer, Weights | None] = {}
        self._gaps: dict[Layer, float | None] = {}

    @property
    def reference_ms(self) -> float | None:
        """What the reference network took beside the first files; it tells one table from another."""
        return self._reference_ms

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @property
    def receipts(self) -> dict[str, Measurement]:
        """Every file's receipt by the name of its chain of layers."""
        return dict(self._receipts)

    def rows(self) -> dict[Layer, Row]:
        """Every measured row."""
        return {layer: self.row(layer) for layer in self._known}

    def networks(self) -> dict[Architecture, Measurement]:
        """Whole networks that were measured, with their latest receipts."""
        return self._store.networks()

    def missing_layers(self, layers: Iterable[Layer]) -> list[Layer]:
        """Those of some layers that have no row, and cannot be interpolated where that is allowed."""
        return [layer for layer in dict.fromkeys(layers) if self._find(layer) is None]

    def missing_files(self, layers: Iterable[Layer]) -> list[Chain]:
        """The files to be exported and timed for some layers' rows, each once."""
        chains = dict.fromkeys(chain for layer in layers for chain in (EMPTY, *recipe(layer)))
        return [chain for chain in chains if name_of(chain) not in self._receipts]

    def fill(self, architectures: Iterable[Architecture], progress: RowsDone | None = None) -> int:
        """Measure what `predict` will need for some architectures and the table lacks.

        Args:
            architectures: networks to be predicted.
            progress: told after each batch of rows, which is then on disk.

        Returns:
            how many rows were added.
        """
        return self.fill_layers((layer for one in architectures for layer in one.layers()), progress)

    def fill_layers(self, layers: Iterable[Layer], progress: RowsDone | None = None) -> int:
        """The same for layers."""
        missing, done = self.missing_layers(layers), 0
        for batch in self._batches(missing):
            begun, files = time.perf_counter(), self.missing_files(batch)
            receipts = self._quietest(files) if files else {}
            self.learn_pace("file", time.perf_counter() - begun, len(files))
            self.add(receipts, batch)
            done += len(batch)
            if progress:
                progress(done, len(missing))
        return len(missing)

    def add(self, receipts: Mapping[str, Measurement], layers: Sequence[Layer] = ()) -> None:
        """Keep receipts of files, and the layers whose rows follow from them."""
        if self._reference_ms is None and receipts:
            self._reference_ms = next(iter(receipts.values())).conditions.reference_ms
            self._store.note(_REFERENCE, self._reference_ms)
        self._store.add(receipts, layers)
        self._receipts |= receipts
        self._known |= dict.fromkeys(layer for layer in layers if self._measured(layer))
        for cache in (self._rows, self._around, self._gaps):
            cache.clear()

    def seconds_needed(self, layers: Iterable[Layer]) -> float | None:
        """About how long filling would take, at the pace of all files until now; None if there were none."""
        files, pace = len(self.missing_files(self.missing_layers(layers))), self.pace("file")
        return 0.0 if files == 0 else pace and pace * files

    def pace(self, what: str) -> float | None:
        """Seconds that one file or network took on average, exporting included; None if none was timed."""
        seconds, count = self._store.noted(f"pace, {what}") or (0.0, 0)
        return seconds / count if count else None

    def learn_pace(self, what: str, seconds: float, count: int) -> None:
        """So many files or networks took so long."""
        before = self._store.noted(f"pace, {what}") or (0.0, 0)
        self._store.note(f"pace, {what}", [before[0] + seconds, before[1] + count])

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value of the target's under a name, such as the space it was filled for."""
        self._store.note(name, value)

    def noted(self, name: str) -> Any:
        """What was noted under a name, or None."""
        return self._store.noted(name)

    def _file_ms(self, name: str) -> float:
        """A file's median, brought to the speed of the first batch."""
        return at_speed(self._receipts[name], self._reference_ms)

    def timed(self, chains: Sequence[Chain]) -> dict[str, Measurement]:
        """Receipts of files, measured now and not kept."""
        return measure_chains(chains, self.target)

    def _batches(self, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
        """Layers in order, as many at a time as need about `_BATCH` files."""
        batch: list[Layer] = []
        for layer in layers:
            batch.append(layer)
            if len(self.missing_files(batch)) >= _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _quietest(self, chains: Sequence[Chain]) -> dict[str, Measurement]:
        """Time files; once again, if a fixed piece of work was slower meanwhile than it once was.

        A batch's rounds are held against each other as they are taken; batches are held against each other
        by the same piece of work. The choice looks at it alone, never at the files.
        """
        best = min(filter(None, map(_guard, self._receipts.values())), default=math.inf)
        taken: list[dict[str, Measurement]] = []
        while len(taken) < _TRIES:
            taken.append(self.timed(chains))
            now = _guard(next(iter(taken[-1].values())))
            if now <= SLOW * min(best, now):
                break
        chosen = min(taken, key=lambda receipts: _guard(next(iter(receipts.values()))))
        return {name: receipt.under(tries=len(taken)) for name, receipt in chosen.items()}

    def row(self, layer: Layer) -> Row:
        """A layer's row, measured, or interpolated where that is allowed.

        Raises:
            InputError: if there is none, nor rows of other widths around it.
        """
        found = self._find(layer)
        if found is None:
            hint = " or of widths around it" if self.may_interpolate else ""
            raise InputError(f"{self.path}: has no row for {layer}{hint}; fill the table first")
        if layer not in self._rows:
            self._rows[layer] = self._row(layer, found)
        return self._rows[layer]

    def layer_ms(self, layer: Layer) -> float:
        """What a layer adds to a network, not calibrated; above 0."""
        return self.row(layer).ms

    def _interval_ms(self, files: Mapping[Chain, float]) -> float:
        spans = {chain: self._receipts[name_of(chain)].interval_ms for chain in files}
        return math.hypot(*(files[chain] * (high - low) / 2 for chain, (low, high) in spans.items()))

    def _row(self, layer: Layer, around: Weights) -> Row:
        files = combined(around, 0.0)
        named = {name_of(chain): weight for chain, weight in files.items() if weight}
        if layer in self._known:
            ms = sum(weight * self._file_ms(name) for name, weight in named.items())
            return Row(max(LEAST_MS, ms), self._interval_ms(files), named)
        ms = sum(share * self.layer_ms(one) for one, share in around.items())
        off = 1.96 * self._gap(layer)
        plus_minus_ms = math.hypot(off, self._interval_ms(files))
        return Row(max(LEAST_MS, ms), plus_minus_ms, named, interpolated=True)

    def _around_of(self, layer: Layer) -> Weights:
        """The measured layers that a layer's row comes from: itself, or those around it."""
        self.row(layer)  # raises, if there are none
        return self._find(layer) or {}

    def _find(self, layer: Layer) -> Weights | None:
        if layer in self._known:
            return {layer: 1.0}
        if not self.may_interpolate:
            return None
        if layer not in self._around:
            weights = neighbours(layer, self._known)
            self._around[layer] = weights if weights and self._gap_or_none(layer) is not None else None
        return self._around[layer]

    def _gap(self, layer: Layer) -> float:
        return self._gap_or_none(layer) or 0.0

    def _gap_or_none(self, layer: Layer) -> float | None:
        """How far interpolation is off for layers like this one, in milliseconds."""
        alike = family(layer)
        if alike not in self._gaps:
            self._gaps[alike] = left_out_error(layer, self._known, self.layer_ms)
        return self._gaps[alike]

    def _measured(self, layer: Layer) -> bool:
        return all(name_of(chain) in self._receipts for chain in (EMPTY, *recipe(layer)))

    def _call_ms(self) -> float:
        if CALL not in self._receipts:
            raise InputError(f"{self.path}: has no row for anything; fill the table first")
        return self._file_ms(CALL)


def _guard(receipt: Measurement) -> float:
    """How long the fixed piece of work took at the better end of a measurement; 0 where none was timed."""
    sentinel_ms = receipt.conditions.sentinel_ms
    return min(sentinel_ms) if sentinel_ms else 0.0
