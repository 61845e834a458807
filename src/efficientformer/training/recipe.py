"""How a network is trained, as a value; the named recipes are in `recipes.py`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from efficientformer.data.augmentation import Augmentation
from efficientformer.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
Distillation = Literal["none", "hard", "soft"]
RATE_IMAGES = 1024
"""Recipes that scale their learning rate give it for so many images a step (paper: 1e-3 × batch / 1024)."""


@dataclass(frozen=True)
class Recipe:
    """A recipe; the defaults are the short one's, for small data.

    Attributes:
        epochs: passes over the training images.
        input_size: pixels of a side.
        batch_size: images a step, over all processes and accumulated parts.
        accumulate: parts of a process's share of a step, computed one after the other to save memory.
        learning_rate: AdamW's peak.
        scale_rate: whether the learning rate is given for 1024 images a step and scaled to `batch_size`.
        warmup_epochs: until the peak is reached; then cosine.
        warmup_rate: the learning rate at first; never scaled, as in the authors' code.
        final_rate: the same at last.
        weight_decay: AdamW's, none on vectors (paper: 0.025).
        label_smoothing: paper: 0.1.
        clip: adaptive gradient clipping, 0 for none (paper: 0.01).
        layer_scale: where LayerScale starts in a network of ours that begins anew. The authors' 1e-5 suits
            300 epochs; in few a block must matter from the start.
        drop_path: probability that a residual path is dropped at the last block (paper: 0).
        ema: decay of the moving average of the weights, 0 for none (authors: 0.99996).
        ema_warmup: whether the decay rises to `ema` from nothing, for trainings of few steps (timm's way).
        sync_norm: batch norm over all processes' images.
        distillation: `hard` (paper), `soft` (Hinton et al., 2015) or `none`.
        distillation_share: of the teacher in the loss (paper: 0.5).
        distillation_temperature: of soft distillation.
        precision: `fp32`, or mixed precision in `bf16` or `fp16`.
        compile: whether torch.compile is used.
        augmentation: what is done to images.
        searched_factor: a supernet's α learn so many times as fast, for they have far to go in few steps.
        seed: of everything random.
    """

    epochs: int
    input_size: int = 128
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 2e-3
    scale_rate: bool = False
    warmup_epochs: float = 1.0
    warmup_rate: float = 0.0
    final_rate: float = 0.0
    weight_decay: float = 0.025
    label_smoothing: float = 0.1
    clip: float = 0.01
    layer_scale: float = 0.1
    drop_path: float = 0.0
    ema: float = 0.0
    ema_warmup: bool = True
    sync_norm: bool = False
    distillation: Distillation = "none"
    distillation_share: float = 0.5
    distillation_temperature: float = 1.0
    precision: Precision = "fp32"
    compile: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    searched_factor: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = self._value(name)
            if not value >= least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        for name in _SHARES:
            value = self._value(name)
            if not 0 <= value <= 1:
                raise InputError(f"{name} is a share between 0 and 1, not {value}")
        for name in ("learning_rate", "warmup_epochs", "warmup_rate", "final_rate", "layer_scale"):
            if not math.isfinite(self._value(name)):
                raise InputError(f"{name} must be a number, not {self._value(name)}")
        if self.ema == 1:
            raise InputError("ema must be below 1, not 1: the average would never move")
        if not self.distillation_temperature > 0:
            raise InputError(
                f"distillation_temperature must be above zero, not {self.distillation_temperature}"
            )
        if self.input_size % 32:
            raise InputError(f"input_size must be a multiple of 32, not {self.input_size}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above zero, not {self.learning_rate}")

    def _value(self, name: str) -> Any:
        return getattr(self if name in self.__dataclass_fields__ else self.augmentation, name)

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up, scaled to the batch size if it is meant to be."""
        return self.learning_rate * (self.batch_size / RATE_IMAGES if self.scale_rate else 1.0)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return dataclasses.asdict(self)


_LEAST = {
    "epochs": 1,
    "input_size": 32,
    "batch_size": 2,
    "accumulate": 1,
    "warmup_epochs": 0,
    "warmup_rate": 0,
    "final_rate": 0,
    "weight_decay": 0,
    "clip": 0,
    "searched_factor": 0,
    "seed": 0,
    "repeats": 1,
    "mixup": 0,
    "cutmix": 0,
}
_SHARES = (
    "label_smoothing",
    "drop_path",
    "ema",
    "distillation_share",
    "min_area",
    "erase",
    "mix_switch",
)
