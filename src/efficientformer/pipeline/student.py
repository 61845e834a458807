"""The network a training begins with, by what a person calls it: a preset, an architecture, a peer, a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from efficientformer.errors import InputError
from efficientformer.evaluation.classifier import HUB
from efficientformer.evaluation.peers import count_outputs, peer_from, published_peer
from efficientformer.evaluation.preparation import of_run
from efficientformer.latency.subjects import TIMM, peer, read_architecture
from efficientformer.model.network import EfficientFormer
from efficientformer.model.zoo import create_model
from efficientformer.named import load_network, run_of
from efficientformer.presets import PRESETS
from efficientformer.training.distillation import prepare_student
from efficientformer.training.recipe import Recipe


@dataclass(frozen=True)
class Student:
    """A network that is about to learn.

    Attributes:
        network: with as many outputs as there are classes.
        name: of the network, or of what it goes on from; `timm/NAME` of a trained peer.
        pretrained: whether its weights come from somewhere.
    """

    network: nn.Module
    name: str
    pretrained: bool


def student(name: str, classes: int, recipe: Recipe, pretrained: str | None = None) -> Student:
    """A network ready to be trained.

    Args:
        name: a preset, an `architecture.json`, `timm/NAME`, or to go on from: a run's folder or a
            `.safetensors` file of ours.
        classes: outputs; where weights have another number, the classifiers begin anew.
        recipe: its input size, seed, dropped paths and distillation are used.
        pretrained: weights for a preset or a peer: a file, or `hub`.

    Raises:
        InputError: if there is no such network, or the weights do not fit.
    """
    if (run := run_of(Path(name))) and (model := of_run(run)[2]).startswith(TIMM):
        if pretrained:
            raise InputError(f"{name}: has its own weights; --pretrained is for presets and peers")
        return dataclasses.replace(
            student(model, classes, recipe, str(run / "model.safetensors")), name=model
        )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        if name.startswith(TIMM):
            network = _peer(name, classes, recipe, pretrained)
        else:
            network = _ours(name, classes, recipe, pretrained)
    prepare_student(network, recipe.distillation)
    anew = name.partition(".")[0] in PRESETS or name.startswith(TIMM) or name.endswith(".json")
    return Student(network.train(), name, bool(pretrained) or not anew)


def _ours(name: str, classes: int, recipe: Recipe, pretrained: str | None) -> EfficientFormer:
    side = recipe.input_size
    if name.partition(".")[0] in PRESETS and not Path(name).exists():
        if pretrained:
            weights = True if pretrained == HUB else pretrained
            return create_model(
                name, weights, num_classes=classes, input_size=side, drop_path_rate=recipe.drop_path
            )
        return _fresh(PRESETS[name.partition(".")[0]], classes, recipe)
    if pretrained:
        raise InputError(f"{name}: --pretrained is for presets and peers")
    if name.endswith(".json"):
        return _fresh(read_architecture(Path(name)), classes, recipe)
    network = load_network(name)
    if recipe.drop_path:
        raise InputError(f"{name}: --drop-path is for networks that begin anew")
    network.set_input_size(side)
    if network.num_classes != classes:
        network.reset_classifier(classes)
    return network


def _fresh(architecture: Any, classes: int, recipe: Recipe) -> EfficientFormer:
    sized = dataclasses.replace(
        architecture, num_classes=classes, input_size=(recipe.input_size, recipe.input_size)
    )
    return EfficientFormer(sized, layer_scale_init=recipe.layer_scale, drop_path_rate=recipe.drop_path)


def _peer(name: str, classes: int, recipe: Recipe, pretrained: str | None) -> nn.Module:
    """A timm model; with weights, its classifier begins anew where it has another number of classes."""
    side = recipe.input_size
    options: dict[str, Any] = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if not pretrained:
        return peer(name, num_classes=classes, input_size=side, seed=recipe.seed, **options)[0]
    if pretrained == HUB:
        network, _ = published_peer(name, side, **options)
    else:
        network, _ = peer_from(name, Path(pretrained), side, **options)
    if count_outputs(name, network) != classes:
        network.reset_classifier(classes)  # ty: ignore[not-callable]
    return network.requires_grad_(True)
