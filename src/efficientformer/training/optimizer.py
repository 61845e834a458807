"""The recipe's optimiser and schedule: timm's parameter groups and cosine, torch's AdamW."""

from __future__ import annotations

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from efficientformer.training.recipe import Recipe


def optimizer_of(
    model: nn.Module, recipe: Recipe, searched: tuple[nn.Parameter, ...] = ()
) -> tuple[torch.optim.AdamW, list[nn.Parameter]]:
    """AdamW without weight decay on vectors, and the parameters whose gradients are clipped.

    Args:
        model: what learns.
        recipe: how.
        searched: architecture parameters: no weight decay, no clipping, a learning rate of their own.
    """
    known = {id(parameter) for parameter in searched}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in known]
    names += getattr(model, "no_weight_decay", set)()  # what a network says of its own tables and tokens
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=names)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in known]
    clipped = [parameter for group in groups for parameter in group["params"]]
    if searched:
        rate = recipe.peak_rate * recipe.searched_factor
        groups.append({"params": list(searched), "weight_decay": 0.0, "lr": rate})
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, fused=True), clipped


def schedule_of(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """The learning rate by steps: a linear warm-up to the peak, then a cosine over the rest."""
    steps = recipe.epochs * steps_per_epoch
    warmup = min(steps - 1, round(recipe.warmup_epochs * steps_per_epoch))
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, steps - warmup),  # of 1 timm warns
        lr_min=recipe.final_rate,
        warmup_t=warmup,
        warmup_lr_init=recipe.warmup_rate,
        warmup_prefix=True,
        t_in_epochs=False,
    )
