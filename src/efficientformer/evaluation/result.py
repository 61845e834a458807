"""What came of scoring a network: the figures, with all that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientformer.evaluation.compare import Comparison, compare
from efficientformer.evaluation.pictures import Pictures
from efficientformer.evaluation.protocol import Protocol
from efficientformer.evaluation.score import Accuracy

FORMAT = "efficientformer.evaluation/1"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One network's accuracy, with all that it depends on.

    Attributes:
        model: the network, as it was named.
        kind: `ours`, `timm` or `file`.
        where: the device, or an exported file's runtime or target.
        protocol: how pictures became inputs.
        accuracy: among the data set's classes.
        top1_all_outputs: the share whose class has the highest of all the network's logits, a figure to hold
            against published ones; None where the network has no other outputs than the data set's classes.
        pictures: what it was scored on.
        labels: int64 (n,) of the pictures that could be read, in their order.
        guesses: int64 (n,), the class that the network takes each for.
        machine: processor, system and runtime.
        versions: of the packages that have a part in it.
        date: UTC.
    """

    model: str
    kind: str
    where: str
    protocol: Protocol
    accuracy: Accuracy
    top1_all_outputs: float | None
    pictures: Pictures
    labels: np.ndarray
    guesses: np.ndarray
    machine: dict[str, str]
    versions: dict[str, str]
    date: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "format": FORMAT,
            "model": self.model,
            "kind": self.kind,
            "where": self.where,
            **self.accuracy.to_json(self.pictures.classes),
            "top1_all_outputs": self.top1_all_outputs,
            "protocol": self.protocol.to_json(),
            "data": self.pictures.to_json(),
            "classes": list(self.pictures.classes),
            "machine": self.machine,
            "versions": self.versions,
            "date": self.date,
        }


def against_first(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """Each network beside the first, picture by picture."""
    first, *others = evaluations
    return [compare(one.model, one.guesses, first.model, first.guesses, first.labels) for one in others]
