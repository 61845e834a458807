"""What learns: a model with its optimiser, its moving average and its loss scale; one step of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from timm.utils import ModelEmaV3
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn

from efficientformer.training.distillation import Outputs, distillation_loss
from efficientformer.training.distributed import World
from efficientformer.training.optimizer import optimizer_of
from efficientformer.training.recipe import Recipe
from efficientformer.training.sync_norm import synchronised

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Part:
    """A process's share of a step, or what is computed of it at once.

    Attributes:
        x: images (b, 3, H, W), augmented, mixed, normalised.
        targets: (b, classes), summing to one.
        advice: the teacher's logits (b, classes) for the same images; None without one.
    """

    x: Tensor
    targets: Tensor
    advice: Tensor | None = None

    def split(self, count: int) -> list[Part]:
        """The same in `count` parts, in every process as many: they make forward passes together."""
        columns = [self.x.tensor_split(count), self.targets.tensor_split(count)]
        advice = self.advice.tensor_split(count) if self.advice is not None else [None] * count
        return [Part(*one) for one in zip(*columns, advice, strict=True)]


@dataclass
class Learner:
    """A model in training.

    Attributes:
        model: gives logits (b, classes), or in training a pair of them. Its own weights, never a wrapper's.
        recipe: how it learns.
        searched: architecture parameters of a supernet.
        world: the processes.
        before_part: called before each forward pass; a supernet draws its noise there.
    """

    model: nn.Module
    recipe: Recipe
    searched: tuple[nn.Parameter, ...] = ()
    world: World = field(default_factory=World)
    before_part: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        device = self.world.device
        self.model.to(device, memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        if self.recipe.sync_norm and self.world.size > 1:
            synchronised(self.model, device)
        self.average = self._average() if self.recipe.ema else None
        wrapped = self.world.wrapped(self.model, partly_used=bool(self.searched))
        self.forward: Callable[[Tensor], Outputs] = torch.compile(wrapped) if self.recipe.compile else wrapped
        self._no_sync = getattr(wrapped, "no_sync", contextlib.nullcontext)
        self.optimizer, self._clipped = optimizer_of(self.model, self.recipe, self.searched)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.recipe.precision == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The recipe's number type, for forward passes."""
        kind = _TYPES.get(self.recipe.precision)
        return torch.autocast(self.world.device.type, kind, enabled=kind is not None)

    def _average(self) -> ModelEmaV3:
        return ModelEmaV3(self.model, self.recipe.ema, use_warmup=self.recipe.ema_warmup)

    def step(self, whole: Part, step: int) -> Tensor:
        """Learn from a share of the batch of a step, counted from 0; its loss, on the device."""
        self.optimizer.zero_grad()
        parts, total = whole.split(self.recipe.accumulate), whole.x.new_zeros(())
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            self.before_part()
            with contextlib.nullcontext() if last else self._no_sync():  # gradients are averaged once a step
                loss = self._loss(part) * (len(part.x) / len(whole.x))
                self.scaler.scale(loss).backward()
            total = total + loss.detach()
        self._update(step)
        return total

    def _loss(self, part: Part) -> Tensor:
        recipe = self.recipe
        with self.autocast():
            outputs = self.forward(part.x)
        return distillation_loss(
            outputs,
            part.targets,
            part.advice,
            kind=recipe.distillation,
            share=recipe.distillation_share,
            temperature=recipe.distillation_temperature,
        )

    def _update(self, step: int) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip:
            adaptive_clip_grad(self._clipped, self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update(self.model, step=step if self.recipe.ema_warmup else None)
