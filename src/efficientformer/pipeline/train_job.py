"""What a training is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.data.bad_files import MAX_UNREADABLE
from efficientformer.data.rand_augment import rand_augment
from efficientformer.errors import InputError
from efficientformer.pipeline.training_data import Keep
from efficientformer.training.loop import CHECKPOINT_S
from efficientformer.training.recipe import Recipe

FORMAT = "efficientformer.training/1"


@dataclass(frozen=True)
class TrainJob:
    """A training.

    Attributes:
        model: what `student` takes.
        data: the folder of images.
        recipe: how.
        pretrained: weights for a preset or a peer: a file, or `hub`.
        teacher: a classifier to distil from: timm/NAME, a run, a file of ours or an exported one.
        teacher_weights: of a teacher that is a preset or a peer: a file, or `hub`.
        keep: images on the device (`held`), from disk (`stream`), or by what fits (`auto`).
        workers: processes that read and augment, for each process that trains.
        device: `cpu`, `cuda` or `auto`.
        evaluate_every: epochs between two evaluations; the last is always evaluated.
        checkpoint_s: seconds between two checkpoints.
        logs: beside JSON lines.
        max_unreadable: greatest share of unreadable images.
    """

    model: str
    data: Path
    recipe: Recipe
    pretrained: str | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    keep: Keep = "auto"
    workers: int = 2
    device: str = "auto"
    evaluate_every: int = 1
    checkpoint_s: float = CHECKPOINT_S
    logs: tuple[str, ...] = ("tensorboard",)
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        for name, value, least in (
            ("workers", self.workers, 0),
            ("evaluate_every", self.evaluate_every, 1),
            ("checkpoint_every", self.checkpoint_s, 0),
        ):
            if not value >= least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        if not 0 <= self.max_unreadable <= 1:
            raise InputError(f"max_unreadable is a share between 0 and 1, not {self.max_unreadable:g}")
        if self.recipe.augmentation.rand_augment:  # a misspelt one is told before any work
            rand_augment(self.recipe.augmentation.rand_augment, self.recipe.augmentation.interpolation)
        distils = self.recipe.distillation != "none"
        if distils and not self.teacher:
            kind = self.recipe.distillation
            raise InputError(
                f"the recipe distils ({kind}) and there is no --teacher; give one, or --distillation none"
            )
        if self.teacher and not distils:
            raise InputError("--teacher without distillation in the recipe; add --distillation hard or soft")

    def document(self) -> dict[str, Any]:
        """What tells it from other trainings: how it is run (workers, device, logs) does not."""
        plain = {
            "format": FORMAT,
            "model": self.model,
            "data": str(self.data.resolve()),
            "recipe": self.recipe.to_json(),
            "pretrained": self.pretrained,
            "teacher": self.teacher,
            "teacher_weights": self.teacher_weights,
            "keep": self.keep,
            "max_unreadable": self.max_unreadable,
        }
        return json.loads(json.dumps(plain))
