"""In goes a folder of images, a device and a latency budget; out comes a network that meets it.

This file is the list of the public names; each is imported when it is first used, so that `--help` and the
processes that only time a file need not wait for torch. Start reading at `architecture.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efficientformer.architecture import Architecture, Block, Stage
    from efficientformer.errors import InputError
    from efficientformer.layers import Attention, Layer
    from efficientformer.model.card import ModelCard, model_card
    from efficientformer.model.checkpoint import load_checkpoint, load_model, save_model, to_layout
    from efficientformer.model.deploy import fold
    from efficientformer.model.features import FeatureExtractor
    from efficientformer.model.network import EfficientFormer
    from efficientformer.model.packed import pack
    from efficientformer.model.pretrained import create_transform
    from efficientformer.model.zoo import create_model, list_models
    from efficientformer.presets import PRESETS

from efficientformer import torchvision_repair

torchvision_repair.install()

__version__ = "0.2.0"

_HOME = {
    "architecture": ("Architecture", "Block", "Stage"),
    "errors": ("InputError",),
    "layers": ("Attention", "Layer"),
    "model.card": ("ModelCard", "model_card"),
    "model.checkpoint": ("load_checkpoint", "load_model", "save_model", "to_layout"),
    "model.deploy": ("fold",),
    "model.features": ("FeatureExtractor",),
    "model.network": ("EfficientFormer",),
    "model.packed": ("pack",),
    "model.pretrained": ("create_transform",),
    "model.zoo": ("create_model", "list_models"),
    "presets": ("PRESETS",),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "PRESETS",
    "Architecture",
    "Attention",
    "Block",
    "EfficientFormer",
    "FeatureExtractor",
    "InputError",
    "Layer",
    "ModelCard",
    "Stage",
    "create_model",
    "create_transform",
    "fold",
    "list_models",
    "load_checkpoint",
    "load_model",
    "model_card",
    "pack",
    "save_model",
    "to_layout",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
