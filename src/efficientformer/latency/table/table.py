"""The latency table: what each layer costs on a target, in one SQLite file; the sum predicts a network.

    latency = base + Σ over layers of cost(layer),   every cost ≥ 0

A layer's cost is its row, measured among neighbours (`chains.py`), times a factor of its kind, plus so much
for every layer, both from a few whole networks (`fit.py`), times a scale that is corrected by networks that a
search measures on its way (`verify`). Being a sum over layers, it fits an integer program.

The table is filled as layers are asked for and kept file by file, so that a stopped build goes on where it
was. A table of another machine, runtime or version is refused.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from efficientformer.architecture import Architecture
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import sentinel
from efficientformer.latency.table.chains import at_speed, combined
from efficientformer.latency.table.fit import Fit, Parts, fitted
from efficientformer.latency.table.rows import Rows
from efficientformer.latency.target import Target
from efficientformer.layers import Layer


@dataclass(frozen=True)
class Prediction:
    """A network's latency as the table has it.

    Attributes:
        ms: milliseconds, calibrated.
        plus_minus_ms: from the files' 95 % intervals, the calibration's residual, and interpolation.
    """

    ms: float
    plus_minus_ms: float


class LatencyTable(Rows):
    """The rows of one target and their calibration; made as `Rows` are.

    Attributes:
        fit: the calibration, as the file has it.
        scale: what `verify` learnt; 1 at first.
    """

    def __init__(self, path: Path, target: Target, *, may_interpolate: bool = False) -> None:
        super().__init__(path, target, may_interpolate=may_interpolate)
        fit = self._store.noted("fit")
        self.fit, self.scale = Fit.from_json(fit) if fit else Fit(), 1.0

    @property
    def base_ms(self) -> float:
        """What every network costs, calibrated: a call."""
        return self.scale * self.fit.a * self._call_ms()

    def cost_ms(self, layer: Layer) -> float:
        """What a layer adds to every network that has it, calibrated; never below 0."""
        return self.scale * self.fit.layer_ms(layer.kind, self.layer_ms(layer))

    def predict(self, architecture: Architecture) -> Prediction:
        """A network's latency: `base_ms` and the `cost_ms` of its layers.

        Raises:
            InputError: if a row is missing (`fill` measures it).
        """
        total = self._total_ms(architecture)
        files, interpolated = self._uncertain_ms(architecture)
        return Prediction(total, math.hypot(files, interpolated, 1.96 * self.fit.residual * total))

    def _total_ms(self, architecture: Architecture) -> float:
        return self.base_ms + sum(map(self.cost_ms, architecture.layers()))

    def _uncertain_ms(self, architecture: Architecture) -> tuple[float, float]:
        """Half the interval from the files, which err independently, and that from interpolation.

        Equal layers share their files and the files' errors; so do layers with a neighbour in common.
        """
        weights: dict[Layer, float] = defaultdict(float)
        gaps: list[float] = []
        for layer, count in Counter(architecture.layers()).items():
            factor = self.scale * self.fit.factor(layer.kind) * count
            for one, share in self._around_of(layer).items():
                weights[one] += factor * share
            if layer not in self._known:
                gaps.append(1.96 * factor * self._gap(layer))
        files = combined(weights, self.scale * self.fit.a)
        return self._interval_ms(files), math.hypot(*gaps)

    def calibrate(self, networks: Mapping[Architecture, Measurement], *, keep: bool = True) -> Fit:
        """Fit factors to whole networks (`fit.py`), brought to one speed; the receipts are kept.

        Args:
            networks: whole networks and what they took.
            keep: whether the fit is kept, too, for whoever opens the file next.
        """
        self.add_networks(networks)
        known = [receipt.conditions.reference_ms for receipt in networks.values()]
        speed = statistics.median(one for one in known if one) if all(known) else None
        took = {one: at_speed(receipt, speed) for one, receipt in networks.items()}
        fit = fitted([(self._parts(one), ms) for one, ms in took.items()])
        self.fit = dataclasses.replace(fit, reference_ms=speed)
        errors = [self._total_ms(one) / (self.scale * ms) - 1 for one, ms in took.items()]
        residual = math.sqrt(statistics.fmean(error**2 for error in errors))
        self.fit = dataclasses.replace(self.fit, residual=residual)
        if keep:
            self._store.note("fit", dataclasses.asdict(self.fit))
        return self.fit

    def add_networks(self, networks: Mapping[Architecture, Measurement]) -> None:
        """Keep receipts of whole networks; one that is there already is not kept twice."""
        there = self.networks()
        self._store.add_networks({one: new for one, new in networks.items() if there.get(one) != new})

    def _parts(self, architecture: Architecture) -> Parts:
        kinds: dict[str, float] = defaultdict(float)
        for layer in architecture.layers():
            kinds[layer.kind] += self.layer_ms(layer)
        return Parts(self._call_ms(), kinds, len(architecture.layers()))

    def verify(self, architecture: Architecture, measured_ms: float) -> float:
        """Set the scale so that one whole network, measured near the budget, is predicted exactly.

        One factor for all networks keeps their order, so a search path does not depend on it: this moves
        only the point of the path where the budget is met. The scale belongs to the search, whose journal
        keeps it; the file does not.
        """
        self.scale *= measured_ms / self.predict(architecture).ms
        return self.scale

    def check_machine(self, told: Callable[[str], None] = lambda line: None) -> float:
        """Measure a few kept files again; seconds. A table of a machine that has changed is refused.

        A machine that is faster or slower as a whole, the reference network as much as the files, is told.

        Args:
            told: told a line if they take somewhat longer or shorter than they did.

        Returns:
            the median of now over then; 1 for an empty table.

        Raises:
            InputError: if, beside the reference, it is below 0.77 or above 1.3.
        """
        chains = sentinel.chosen(list(self._known), self._receipts)
        if not chains:
            return 1.0
        now = self.timed(chains)
        pairs = [(receipt, self._receipts[name]) for name, receipt in now.items()]
        ratio = statistics.median(new.median_ms / old.median_ms for new, old in pairs)
        beside = statistics.median(
            at_speed(new, old.conditions.reference_ms) / old.median_ms for new, old in pairs
        )
        if line := sentinel.verdict(self.path, ratio, beside):
            told(line)
        return ratio
