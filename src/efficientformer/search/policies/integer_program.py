"""The search for the best network of a latency window as a mixed-integer program (scipy's `milp`, HiGHS).

    least  Σ_p Σ_o value(p, o) z(p, o) + Σ_s Σ_w value(s, w) y(s, w)
    with   low ≤ base + stem + embeddings + blocks + head ≤ high

y chooses a stage's width, z a position's option (kind and expansion, or the identity); these are the only
binaries. A block's cost depends on (width, option), not on the position, so it is counted over the stage:
n(s, w, o) positions of an option, all of them at the chosen width, is whole where y and z are. An embedding's
(width in, width out) is a transport between two stages' y. Attention stays at the end of the network: a
rising m(p) says that it has begun.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from efficientformer.architecture import Architecture, Block
from efficientformer.search.policies.values import Values
from efficientformer.search.space.choices import WHOLE, Choices, Place
from efficientformer.search.space.costs import Costs, Window
from efficientformer.search.space.search_space import IDENTITY

_MARGIN = 1e-6  # HiGHS keeps constraints to so much; the window is narrowed by it, relative to its upper end
NODES = 1_000_000  # a bound on the work that, unlike one in seconds, is the same on every machine

Option = tuple[str, int]  # kind and expansion; (identity, 0)


@dataclass
class _Columns:
    """Variables of a program: what each adds to objective and latency, and whether it is binary."""

    value: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    binary: list[int] = field(default_factory=list)

    def add(self, *, value: float = 0.0, ms: float = 0.0, most: float = 1.0, binary: bool = False) -> int:
        """A variable from 0 to `most`; its index."""
        self.value.append(value)
        self.ms.append(ms)
        self.most.append(most)
        self.binary.append(int(binary))
        return len(self.value) - 1


class Program:
    """The program of one activation, stem and input size.

    Args:
        choices: what each place can have.
        values: of each choice.
        costs: of each layer.
        base: the largest network, with these.
    """

    def __init__(self, choices: Choices, values: Values, costs: Costs, base: Architecture) -> None:
        self._choices, self._values, self._costs, self._base = choices, values, costs, base
        self._columns = _Columns()
        self._rows: list[tuple[dict[int, float], float, float]] = []
        self._whole = sum(values.rises[place][place.of(base)] for place in map(Place, WHOLE))
        self._y = [self._widths(stage) for stage in range(4)]
        self._z = {(stage, position): self._options(stage, position) for stage, position in self._positions()}
        for stage in range(4):
            self._blocks(stage)
        for stage in range(1, 4):
            self._embeds(stage)
        self._attention()

    def _positions(self) -> list[tuple[int, int]]:
        return list(self._choices.space.positions())

    def _row(self, terms: Mapping[int, float], low: float, high: float) -> None:
        self._rows.append((dict(terms), low, high))

    def _widths(self, stage: int) -> dict[int, int]:
        """y: one width of the stage, with the stem's or the head's cost."""
        place, found = Place("width", stage), {}
        for width in cast(tuple[int, ...], self._choices.places[place]):
            named = dict(self._base.with_width(stage, width).named_layers())
            ends = {0: "stem", 3: "head"}
            ms = self._costs.cost_ms(named[ends[stage]]) if stage in ends else 0.0
            found[width] = self._columns.add(value=self._values.rises[place][width], ms=ms, binary=True)
        self._row(dict.fromkeys(found.values(), 1.0), 1, 1)
        return found

    def _options(self, stage: int, position: int) -> dict[Option, int]:
        """z: one option of the position."""
        expansions = cast(tuple[int, ...], self._choices.places[Place("expansion", stage, position)])
        found: dict[Option, int] = {}
        for kind in cast(tuple[str, ...], self._choices.places[Place("kind", stage, position)]):
            for expansion in expansions if kind != IDENTITY else (0,):
                value = self._values.block(stage, position, kind, expansion)
                found[kind, expansion] = self._columns.add(value=value, binary=True)
        self._row(dict.fromkeys(found.values(), 1.0), 1, 1)
        return found

    def _blocks(self, stage: int) -> None:
        """n: how many positions of the stage have an option, at the width that is chosen."""
        positions = [self._z[where] for where in self._z if where[0] == stage]
        options = list(dict.fromkeys(option for one in positions for option in one))
        counts: dict[Option, list[int]] = {option: [] for option in options}
        for width, y in self._y[stage].items():
            network = self._base.with_width(stage, width)
            here = [
                self._columns.add(ms=self._block_ms(network, stage, option), most=len(positions))
                for option in options
            ]
            self._row({**dict.fromkeys(here, 1.0), y: -len(positions)}, 0, 0)
            for option, column in zip(options, here, strict=True):
                counts[option].append(column)
        for option, columns in counts.items():
            chosen = {one[option]: -1.0 for one in positions if option in one}
            self._row({**dict.fromkeys(columns, 1.0), **chosen}, 0, 0)
        left_out = {one[IDENTITY, 0]: 1.0 for one in positions if (IDENTITY, 0) in one}
        self._row(left_out, 0, max(0, len(positions) - self._choices.space.min_depth))

    def _block_ms(self, network: Architecture, stage: int, option: Option) -> float:
        kind, expansion = option
        if kind == IDENTITY:
            return 0.0
        return self._costs.cost_ms(network.with_expansion(stage, 0, expansion).block_layer(stage, 0, kind))

    def _embeds(self, stage: int) -> None:
        """The embedding into a stage: a transport from the width above to its own."""
        above, own = self._y[stage - 1], self._y[stage]
        pairs = {}
        for wide in above:
            for width in own:
                network = self._base.with_width(stage - 1, wide).with_width(stage, width)
                layer = dict(network.named_layers())[f"stages.{stage}.embed"]
                pairs[wide, width] = self._columns.add(ms=self._costs.cost_ms(layer))
        for wide, y in above.items():
            self._row({**{pairs[wide, width]: 1.0 for width in own}, y: -1.0}, 0, 0)
        for width, y in own.items():
            self._row({**{pairs[wide, width]: 1.0 for wide in above}, y: -1.0}, 0, 0)

    def _attention(self) -> None:
        """Once attention has begun, every position attends or is left out; before it, none attends."""
        begun = None
        for options in self._z.values():
            attends = {z: 1.0 for (kind, _), z in options.items() if kind == "attention"}
            others = {z: 1.0 for (kind, _), z in options.items() if kind not in ("attention", IDENTITY)}
            if not attends and begun is None:
                continue
            now = self._columns.add()
            self._row({**attends, now: -1.0}, -1, 0)
            self._row({**others, now: 1.0}, 0, 1)
            if begun is not None:
                self._row({now: 1.0, begun: -1.0}, 0, 1)
            begun = now

    def solve(self, window: Window) -> tuple[Architecture | None, float]:
        """The best network of a window, if there is one, and the bound on the value of any."""
        scale = window.high_ms
        ms = {index: one / scale for index, one in enumerate(self._columns.ms) if one}
        base = self._costs.base_ms / scale
        low = window.low_ms / scale - base + (_MARGIN if window.low_ms else 0.0)
        answer = milp(
            np.array(self._columns.value),
            integrality=np.array(self._columns.binary),
            bounds=Bounds(0, np.array(self._columns.most)),
            constraints=self._constraints([*self._rows, (ms, low, 1 - base - _MARGIN)]),
            options={"mip_rel_gap": 0.0, "node_limit": NODES},
        )
        bound = float("inf") if answer.status == 2 else float("-inf")  # 2: no network lies in the window
        if answer.x is None:
            return None, bound
        return self._decoded(answer.x), self._whole + float(answer.mip_dual_bound)

    def _constraints(self, rows: list[tuple[dict[int, float], float, float]]) -> LinearConstraint:
        entries = [(row, *pair) for row, (terms, _, _) in enumerate(rows) for pair in terms.items()]
        where = ([row for row, _, _ in entries], [column for _, column, _ in entries])
        shape = (len(rows), len(self._columns.value))
        matrix = csr_array(([factor for *_, factor in entries], where), shape=shape)
        return LinearConstraint(matrix, [low for _, low, _ in rows], [high for *_, high in rows])

    def _decoded(self, x: np.ndarray) -> Architecture:
        network, largest = self._base, self._choices.space.largest
        for stage, widths in enumerate(self._y):
            network = network.with_width(stage, max(widths, key=lambda width: x[widths[width]]))
        stages = [list(stage.blocks) for stage in network.stages]
        for (stage, position), options in self._z.items():
            kind, expansion = max(options, key=lambda option: x[options[option]])
            own = largest.stages[stage].blocks[position].expansion
            stages[stage][position] = Block(kind, expansion or own)
        return dataclasses.replace(
            network,
            stages=tuple(
                dataclasses.replace(stage, blocks=tuple(blocks))
                for stage, blocks in zip(network.stages, stages, strict=True)
            ),
        )
