"""How a network is trained, as a value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from efficientformer.data.batches import Augmentation

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Recipe:
    """A short recipe for small data; its accuracy is whatever the run's summary says.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: AdamW's peak; reached after `warmup` of all steps, then cosine to zero.
        warmup: share of the steps.
        weight_decay: AdamW's, none on vectors (paper: 0.025).
        label_smoothing: paper: 0.1.
        clip: adaptive gradient clipping (paper: 0.01).
        augmentation: crops and flips.
        searched_factor: a supernet's α learn so many times as fast, for they have far to go in few steps.
        precision: `fp32`, or `bf16` mixed precision, faster on a processor that has it.
        seed: of everything random.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.025
    label_smoothing: float = 0.1
    clip: float = 0.01
    augmentation: Augmentation = field(default_factory=Augmentation)
    searched_factor: float = 10.0
    precision: Precision = "fp32"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return dataclasses.asdict(self)
