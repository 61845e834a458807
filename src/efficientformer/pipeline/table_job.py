"""`table build`, `table audit`: fill a latency table for a search space, hold it against whole networks.

efficientformer table build --supernet xs --input-size 64
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.latency.measure import measure_files, until_usable
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import Fit, LatencyTable
from efficientformer.latency.table.audit import Audit, Held
from efficientformer.latency.table.chains import REFERENCE, beside_reference, name_of, traced_chain
from efficientformer.latency.table.interpolate import to_measure
from efficientformer.latency.table.rows import RowsDone
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import export_untrained, untrained
from efficientformer.layers import Layer
from efficientformer.model.deploy import fold
from efficientformer.progress import Progress, clock
from efficientformer.runtimes import Traced, usable
from efficientformer.search.space.search_space import SearchSpace

CALIBRATION = 20  # networks; with five, factors by kind of layer hardly leave the common one
_TOGETHER = 10  # networks exported and timed in one interleaved run, a process each
_SPACE = "space"
_FIRST = 6  # layers measured first, from all over the space, to tell how long the rest will take

Measured = dict[Architecture, Measurement]


@dataclass(frozen=True)
class Built:
    """What a build has come to.

    Attributes:
        table: the file.
        target: where.
        rows: how many there are.
        added: how many of them are new.
        files: how many files they were measured with.
        fit: the calibration.
        seconds: that this build took.
    """

    table: str
    target: str
    rows: int
    added: int
    files: int
    fit: Fit
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return dataclasses.asdict(self)


def build(
    space: SearchSpace,
    path: Path,
    target: Target,
    *,
    networks: int = CALIBRATION,
    seed: int = 0,
    every: int = 1,
    progress: Progress | None = None,
) -> Built:
    """Measure the rows of a search space and calibrate them; a stopped build goes on where it was.

    Down-samplings between all pairs of widths are too many: every third width is measured, the rest is
    interpolated. Blocks, stems and heads are measured at every width, unless `every` says otherwise.

    Args:
        space: whose layers are measured.
        path: the table's file; made if absent.
        target: where.
        networks: how many to calibrate to.
        seed: of the draw of those networks.
        every: which widths of blocks, stems and heads are measured; the rest is interpolated. `slim` measures
            every second one.
        progress: told how far it is; first, how long it will take.

    Raises:
        InputError: for a table that is not of this machine, or too few networks.
    """
    begun, progress = time.monotonic(), progress or Progress()
    _check(networks, least=5)
    if every < 1:
        raise InputError(f"table: --every must be at least 1, not {every}")
    table = LatencyTable(path, target)
    try:
        table.check_machine(progress.line)
        whole = calibration_networks(space, networks, seed)
        layers = to_measure(space.layers(), every)
        before = len(table.rows())
        _estimate(table, layers, whole, progress)
        told: RowsDone = lambda done, total: progress.update(done, total, "layers measured")  # noqa: E731
        table.fill_layers(layers, told)
        table.may_interpolate = True
        table.fill_layers(space.layers(), told)  # where there are too few to interpolate by
        progress.stage(f"{len(whole)} whole networks to calibrate to")
        fit = table.calibrate(measure_networks(whole, table, progress))
        table.note(_SPACE, {"space": space.to_json(), "networks": networks, "seed": seed})
        rows, files = len(table.rows()), len(table.receipts)
    finally:
        table.close()
    progress.line(f"   calibrated, relative error {fit.residual:.1%} (root mean square)")
    return Built(str(path), str(target), rows, rows - before, files, fit, round(time.monotonic() - begun, 1))


def audit(
    path: Path, target: Target, *, networks: int = 100, seed: int = 1, progress: Progress | None = None
) -> Audit:
    """Hold a built table against random networks that it was not calibrated to.

    Predictions are made before anything is measured. Networks that an earlier audit measured are not measured
    again: a stopped audit goes on, and another seed draws others.

    Args:
        path: the table's file.
        target: where.
        networks: how many.
        seed: of their draw.
        progress: told how far it is.

    Raises:
        InputError: if no space was built in the table for this target, or the space has too few networks.
    """
    begun, progress = time.monotonic(), progress or Progress()
    _check(networks, least=3)
    table = open_built(path, target)
    try:
        table.check_machine(progress.line)
        held = held_out(table, networks, seed)
        table.fill(held, lambda done, total: progress.update(done, total, "layers measured"))
        predicted = {one: table.predict(one) for one in held}
        progress.stage(f"{networks} networks that the table has not seen, on {target}")
        measured = measure_networks(held, table, progress)
        speed = table.fit.reference_ms
        pairs = [Held(one, predicted[one], measured[one], speed) for one in held]
        return Audit(str(target), pairs, table.fit, seed, time.monotonic() - begun)
    finally:
        table.close()


def open_filled(path: Path, target: Target) -> LatencyTable:
    """A table with rows, of `build` or of a run of `slim`.

    Raises:
        InputError: if there is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no such table; `efficientformer table build` makes it")
    table = LatencyTable(path, target, may_interpolate=True)
    if not table.rows():
        table.close()
        raise InputError(f"{path}: has no rows for {target}; `efficientformer table build` measures them")
    return table


def open_built(path: Path, target: Target) -> LatencyTable:
    """A table that `build` has finished, ready to predict every network of its space.

    Raises:
        InputError: if there is none.
    """
    table = open_filled(path, target)
    if table.noted(_SPACE) is None:
        table.close()
        raise InputError(f"{path}: no build for {target} is finished; `efficientformer table build` goes on")
    return table


def space_of(table: LatencyTable) -> SearchSpace:
    """The space a table was built for."""
    return SearchSpace.from_json(table.noted(_SPACE)["space"])


def calibration_networks(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """The space's own five, and random ones, without identities."""
    return _distinct(space, [one.compact() for one in space.between()], count, random.Random(f"fit {seed}"))


def held_out(table: LatencyTable, count: int, seed: int) -> list[Architecture]:
    """Random networks of a table's space, none of which it was calibrated to."""
    noted, space = table.noted(_SPACE), space_of(table)
    seen = calibration_networks(space, noted["networks"], noted["seed"])
    return _distinct(space, seen, len(seen) + count, random.Random(f"audit {seed}"))[len(seen) :]


def _distinct(
    space: SearchSpace, first: Sequence[Architecture], count: int, generator: random.Random
) -> list[Architecture]:
    found = dict.fromkeys(first)
    for _ in range(50 * count):
        if len(found) >= count:
            break
        found.setdefault(space.sample(generator).compact())
    if len(found) < count:
        raise InputError(f"the space has no {count} different networks; ask for fewer --networks")
    return list(found)[:count]


def measure_networks(networks: Sequence[Architecture], table: LatencyTable, progress: Progress) -> Measured:
    """Receipts of whole networks; those the table has not got are measured and kept, batch by batch.

    So are those timed without the reference network, as a run of `slim` does.
    """
    left = _not_beside(networks, table)
    for start in range(0, len(left), _TOGETHER):
        batch, begun = left[start : start + _TOGETHER], time.perf_counter()
        table.add_networks(time_networks(batch, table.target))
        table.learn_pace("network", time.perf_counter() - begun, len(batch))
        progress.update(start + len(batch), len(left), "networks measured")
    kept = table.networks()
    return {one: kept[one] for one in networks}


def _not_beside(networks: Sequence[Architecture], table: LatencyTable) -> list[Architecture]:
    """Those that the table has no receipt of beside its reference network."""
    beside = {one for one, receipt in table.networks().items() if receipt.conditions.reference_ms}
    return [one for one in networks if one not in beside]


def time_networks(networks: Sequence[Architecture], target: Target) -> Measured:
    """Export untrained networks in one pass, and time them in one interleaved run, a process each.

    The table's reference network takes its turns among them; every receipt knows what it took.
    """
    runtime = usable(target.runtime, target.device)
    with tempfile.TemporaryDirectory() as folder:
        traced = [Traced(fold(untrained(one)), (1, one.in_channels, *one.input_size)) for one in networks]
        traced.append(traced_chain(REFERENCE))
        paths = export_untrained(runtime, traced, Path(folder), target.precision)
        del traced
        names = [*map(str, range(len(networks))), name_of(REFERENCE)]
        files = dict(zip(names, paths, strict=True))
        take: Callable[[], dict[str, Measurement]] = lambda: measure_files(  # noqa: E731
            files, target, rounds=12, seconds=0.9, min_samples=36
        )
        receipts = beside_reference(until_usable(take, tries=2)).values()
    named = zip(networks, receipts, strict=True)
    return {one: dataclasses.replace(receipt, model=str(one)) for one, receipt in named}


def _estimate(
    table: LatencyTable, layers: Sequence[Layer], whole: Sequence[Architecture], progress: Progress
) -> None:
    """Say how long the build will take; a table without any rows measures a few first, to know."""
    missing = table.missing_layers(layers)
    networks = len(_not_beside(whole, table))
    progress.stage(f"{len(missing)} rows and {networks} whole networks to measure on {table.target}")
    if table.pace("file") is None:
        table.fill_layers(missing[:: max(1, len(missing) // _FIRST)][:_FIRST])
    seconds = table.seconds_needed(layers) or 0.0
    pace = table.pace("network")
    whole_s = f", and {clock(pace * networks)} for the networks" if pace else ", and the networks"
    progress.line(f"   about {clock(seconds)} for {len(table.missing_files(missing))} files{whole_s}")


def _check(networks: int, least: int) -> None:
    if networks < least:
        raise InputError(f"table: --networks must be at least {least}, not {networks}")
