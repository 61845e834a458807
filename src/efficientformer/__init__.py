"""In goes a folder of images, a device and a latency budget; out comes a network that meets it.

This file is the list of the public names. Start reading at `architecture.py`.
"""

from efficientformer import torchvision_repair

torchvision_repair.repair()  # before anything imports timm

from efficientformer.architecture import Architecture, Block, Stage  # noqa: E402
from efficientformer.errors import InputError  # noqa: E402
from efficientformer.layers import Attention, Layer  # noqa: E402
from efficientformer.model.card import ModelCard, model_card  # noqa: E402
from efficientformer.model.checkpoint import load_checkpoint, load_model, save_model, to_layout  # noqa: E402
from efficientformer.model.deploy import fold  # noqa: E402
from efficientformer.model.features import FeatureExtractor  # noqa: E402
from efficientformer.model.network import EfficientFormer  # noqa: E402
from efficientformer.model.packed import pack  # noqa: E402
from efficientformer.model.pretrained import create_transform  # noqa: E402
from efficientformer.model.zoo import create_model, list_models  # noqa: E402
from efficientformer.presets import PRESETS  # noqa: E402

__version__ = "0.2.0"

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
