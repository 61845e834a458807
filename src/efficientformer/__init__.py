"""In goes a folder of images, a device and a latency budget; out comes a network that meets it.

This file is the list of the public names. Start reading at `architecture.py`.
"""

from efficientformer import torchvision_repair

torchvision_repair.repair()  # before anything imports timm

from efficientformer.architecture import PRESETS, Architecture, Attention, Block, Layer, Stage  # noqa: E402
from efficientformer.errors import InputError  # noqa: E402
from efficientformer.model.checkpoint import load_checkpoint, load_model, save_model  # noqa: E402
from efficientformer.model.network import EfficientFormer, fold  # noqa: E402
from efficientformer.model.zoo import create_model, list_models  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Architecture",
    "Attention",
    "Block",
    "EfficientFormer",
    "InputError",
    "Layer",
    "Stage",
    "create_model",
    "fold",
    "list_models",
    "load_checkpoint",
    "load_model",
    "save_model",
]
