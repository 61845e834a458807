"""What a slimming run is asked for."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efficientformer.architecture import check_input_size
from efficientformer.data.augmentation import Augmentation
from efficientformer.data.bad_files import MAX_UNREADABLE
from efficientformer.errors import InputError
from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.search.draws import Sampling
from efficientformer.search.space import SUPERNETS
from efficientformer.training.recipe import Precision

FORMAT = "efficientformer.run/1"
AIM = 0.97  # the search aims a little under the budget: measurements scatter
TOLERANCE = 0.02  # the exported file's median may be so much over the budget


@dataclass(frozen=True)
class Job:
    """A slimming run.

    Attributes:
        data: the folder of images.
        budget: what one inference may take.
        target: where.
        input_size: pixels of a side.
        supernet: one of `SUPERNETS`, or `auto` for the smallest that leaves room for a search.
        supernet_epochs: passes over the training images for the supernet.
        epochs: the same for the network that was found.
        batch_size: images a step.
        learning_rate: AdamW's peak, for both trainings.
        augmentation: crops and flips, for both.
        precision: of both trainings, `fp32` or `bf16`; latency is measured in the target's.
        sampling: how the supernet's steps choose among paths and widths.
        max_unreadable: greatest share of unreadable images.
        train_unslimmed: also train the unslimmed network by the same recipe, to see what slimming cost.
        seed: of the split and of everything random.
    """

    data: Path
    budget: Budget
    target: Target = field(default_factory=Target)
    input_size: int = 128
    supernet: str = "auto"
    supernet_epochs: int = 20
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "fp32"
    sampling: Sampling = field(default_factory=Sampling)
    max_unreadable: float = MAX_UNREADABLE
    train_unslimmed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_input_size((self.input_size, self.input_size))
        if self.supernet != "auto" and self.supernet not in SUPERNETS:
            known = ", ".join(("auto", *SUPERNETS))
            raise InputError(f"unknown supernet {self.supernet!r}; known: {known}")
        for name, value, least in (
            ("supernet_epochs", self.supernet_epochs, 1),
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 2),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        for name, value in (
            ("max_unreadable", self.max_unreadable),
            ("min_area", self.augmentation.min_area),
        ):
            if not 0 <= value <= 1:
                raise InputError(f"{name} is a share between 0 and 1, not {value}")
        for name, value in (
            ("learning_rate", self.learning_rate),
            ("tau_start", self.sampling.tau_start),
            ("tau_end", self.sampling.tau_end),
        ):
            if not value > 0:
                raise InputError(f"{name} must be above zero, not {value}")

    def document(self) -> dict[str, Any]:
        """What the run's folder is claimed with."""
        return {"format": FORMAT, **self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; the folder of images by its absolute path."""
        plain = dataclasses.asdict(self) | {
            "data": str(self.data.resolve()),
            "budget": str(self.budget),
            "target": str(self.target),
        }
        return json.loads(json.dumps(plain))
