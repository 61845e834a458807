"""What the search needs of a latency table: a latency that is a sum over layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.layers import Layer


class Costs(Protocol):
    """Latency by layer, linear: a network costs `base_ms` and the sum of its layers."""

    @property
    def base_ms(self) -> float:
        """Milliseconds of a call without any layer, from 0."""
        ...

    def cost_ms(self, layer: Layer) -> float:
        """Milliseconds that one layer adds, from 0."""
        ...


def predicted_ms(costs: Costs, architecture: Architecture) -> float:
    """A network's latency in milliseconds."""
    return costs.base_ms + sum(map(costs.cost_ms, architecture.layers()))


class Remembered:
    """Costs that ask for each layer once; to be made anew when the table's scale has changed.

    Args:
        costs: where they come from, such as a latency table.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs, self.base_ms = costs, costs.base_ms
        self._known: dict[Layer, float] = {}

    def cost_ms(self, layer: Layer) -> float:
        """Milliseconds that one layer adds."""
        known = self._known.get(layer)
        if known is None:
            known = self._known[layer] = self._costs.cost_ms(layer)
        return known


@dataclass(frozen=True)
class Listed:
    """Costs to be sent to another process.

    Attributes:
        base_ms: milliseconds of a call without any layer.
        layers_ms: of each layer, by its key.
    """

    base_ms: float
    layers_ms: Mapping[str, float]

    @classmethod
    def of(cls, costs: Costs, layers: Iterable[Layer]) -> Listed:
        """The costs of some layers."""
        return cls(costs.base_ms, {layer.key(): costs.cost_ms(layer) for layer in layers})

    def cost_ms(self, layer: Layer) -> float:
        """Milliseconds that one of the layers adds."""
        return self.layers_ms[layer.key()]

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {"base_ms": self.base_ms, "layers_ms": dict(self.layers_ms)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Listed:
        """The costs that `to_json` wrote."""
        return cls(**document)


@dataclass(frozen=True)
class Window:
    """The latencies that will do.

    Attributes:
        low_ms: the least, in milliseconds; 0 for none.
        high_ms: the most.

    Raises:
        InputError: if no latency lies in it.
    """

    low_ms: float
    high_ms: float

    def __post_init__(self) -> None:
        if not 0 <= self.low_ms <= self.high_ms or self.high_ms <= 0:
            raise InputError(
                f"window {self.low_ms:g} to {self.high_ms:g} ms: give 0 <= low <= high, high > 0"
            )

    def holds(self, ms: float) -> bool:
        """Whether a latency lies in it."""
        return self.low_ms <= ms <= self.high_ms

    def distance(self, ms: float) -> float:
        """Milliseconds to its nearer end; 0 inside."""
        return max(0.0, self.low_ms - ms, ms - self.high_ms)


class EmptyWindowError(InputError):
    """No network of the space was found in a window."""

    def __init__(self, window: Window) -> None:
        low, high = window.low_ms, window.high_ms
        super().__init__(f"no network of the space is predicted between {low:.3f} and {high:.3f} ms")
