"""The one training loop, for networks and supernets alike. It resumes bit for bit from a checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn

from efficientformer.data.batches import steps_per_epoch, training_batch
from efficientformer.data.images import Images
from efficientformer.errors import InputError
from efficientformer.progress import Progress
from efficientformer.training import checkpoint
from efficientformer.training.recipe import Recipe

CHECKPOINT_S = 20.0
_STOPS = (signal.SIGINT, signal.SIGTERM)
Prepare = Callable[[int, float], None]
"""Told (step, share of the training that is done) before each step."""


def train(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    side: int,
    state: Path,
    *,
    title: str,
    prepare: Prepare | None = None,
    searched: tuple[nn.Parameter, ...] = (),
    progress: Progress | None = None,
) -> None:
    """Train a model in place, from its last checkpoint if there is one.

    Args:
        model: gives logits (b, classes), or in training a pair of them.
        images: the training images.
        recipe: how.
        side: the model's input size in pixels.
        state: the checkpoint's path; it also marks the training as done.
        title: for the progress lines and the checkpoint.
        prepare: called before each step; a supernet draws its noise here.
        searched: architecture parameters; they learn without weight decay and clipping.
        progress: told how far it is.

    Raises:
        InputError: if the loss is no number any more, or the checkpoint is of another training.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, once the step is over and the state is saved.
    """
    progress = progress or Progress(None)
    model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    optimizer, clipped = _optimizer(model, recipe, searched)
    total = recipe.epochs * steps_per_epoch(images, recipe.batch_size)
    schedule = _schedule(optimizer, recipe, total)
    about = json.loads(json.dumps({"title": title, "recipe": recipe.to_json(), "images": len(images)}))
    step = checkpoint.restore(state, model, optimizer, about)
    saved = time.monotonic()
    model.train()
    if 0 < step < total:
        progress.line(f"   {title}: going on after step {step} of {total}")
    with stop_requests() as asked_to_stop:
        while step < total:
            schedule.step_update(step)
            if prepare:
                prepare(step, step / total)
            batch = training_batch(images, step, recipe.batch_size, side, recipe.augmentation, recipe.seed)
            loss = _step(model, optimizer, clipped, recipe, *batch)
            if not math.isfinite(loss):
                advice = f"lower --learning-rate {recipe.learning_rate:g}"
                raise InputError(f"{title}: the loss is {loss} at step {step}; {advice}")
            step += 1
            progress.update(step, total, f"{title} · loss {loss:.3f}")
            if asked_to_stop() or step == total or time.monotonic() - saved > CHECKPOINT_S:
                checkpoint.save(state, model, optimizer, step, about)
                saved = time.monotonic()
            if asked_to_stop():
                raise KeyboardInterrupt
    model.eval()


@contextlib.contextmanager
def stop_requests() -> Generator[Callable[[], bool], None, None]:
    """While this holds, Ctrl-C and SIGTERM wait; the function tells whether one came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield lambda: False
        return
    before = {number: signal.signal(number, lambda got, _frame: came.append(got)) for number in _STOPS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _optimizer(
    model: nn.Module, recipe: Recipe, searched: tuple[nn.Parameter, ...]
) -> tuple[torch.optim.AdamW, list[nn.Parameter]]:
    """AdamW, and the parameters whose gradients are clipped."""
    known = {id(parameter) for parameter in searched}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in known]
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=names)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in known]
    clipped = [parameter for group in groups for parameter in group["params"]]
    if searched:
        rate = recipe.learning_rate * recipe.searched_factor
        groups.append({"params": list(searched), "weight_decay": 0.0, "lr": rate})
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True), clipped


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> CosineLRScheduler:
    warmup = min(steps - 1, int(recipe.warmup * steps))
    return CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clipped: list[nn.Parameter],
    recipe: Recipe,
    x: Tensor,
    labels: Tensor,
) -> float:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        outputs = model(x)
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    smoothing = recipe.label_smoothing
    losses = [F.cross_entropy(logits.float(), labels, label_smoothing=smoothing) for logits in heads]
    loss = torch.stack(losses).mean()
    optimizer.zero_grad()
    loss.backward()
    if recipe.clip:
        adaptive_clip_grad(clipped, recipe.clip)
    optimizer.step()
    return loss.item()
