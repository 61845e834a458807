"""What networks of a search took when they were measured, and what others are expected to take now."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from efficientformer.architecture import Architecture


@dataclass
class Measured:
    """The measurements of a search so far, in milliseconds.

    Attributes:
        predicted: what the latency table said of networks before they were first measured.
        verified: their medians when they were last measured.
        proofs: how often each of them was measured as the file of a trained network.
        slower: what the last such file took over its network's with random weights, in the same run; 1 if
            there was none.
        scale: the latency table's, as the last of them set it.
    """

    predicted: dict[Architecture, float] = field(default_factory=dict)
    verified: dict[Architecture, float] = field(default_factory=dict)
    proofs: Counter[Architecture] = field(default_factory=Counter)
    slower: float = 1.0
    scale: float = 1.0
    _untrained: dict[Architecture, float] = field(default_factory=dict)

    def learn(
        self,
        architecture: Architecture,
        predicted_ms: float,
        measured_ms: float,
        scale: float,
        untrained_ms: float | None = None,
    ) -> None:
        """A network was measured.

        Args:
            architecture: the network.
            predicted_ms: what the table said before.
            measured_ms: what it took: with random weights, or the file of the trained network.
            scale: the table's, by that.
            untrained_ms: for a trained network's file, what one with random weights took in the same run.
        """
        self.predicted.setdefault(architecture, predicted_ms)
        self.verified[architecture], self.scale = measured_ms, scale
        if untrained_ms is None:
            self._untrained[architecture] = measured_ms
            return
        self.proofs[architecture] += 1
        self.slower = measured_ms / untrained_ms
        # the machine is not what it was in the search; then it is not for any network
        changed = untrained_ms / self._untrained.get(architecture, untrained_ms)
        self._untrained = {one: changed * ms for one, ms in self._untrained.items()}
        self._untrained[architecture] = untrained_ms

    def untrained_ms(self, architecture: Architecture) -> float:
        """What a network that was measured takes with random weights, at the machine's present speed."""
        return self._untrained[architecture]

    def file_ms(self, architecture: Architecture) -> float:
        """What the exported file of a network that was measured takes, or would if it were trained."""
        return self.slower * self._untrained[architecture]
