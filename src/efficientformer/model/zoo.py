"""Networks by name."""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path

from efficientformer.architecture import PRESETS
from efficientformer.errors import InputError
from efficientformer.model.checkpoint import load_checkpoint
from efficientformer.model.network import EfficientFormer


def list_models(pattern: str = "*") -> list[str]:
    """Names of the presets that match a shell-style pattern."""
    return sorted(fnmatch.filter(PRESETS, pattern))


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    input_size: int | tuple[int, int] = 224,
    distilled: bool = True,
    checkpoint: Path | str | None = None,
) -> EfficientFormer:
    """A preset as a network, in evaluation mode.

    Args:
        name: one of `list_models()`.
        num_classes: outputs of each classifier.
        in_chans: channels of the image.
        input_size: pixels, one side or (height, width); each divisible by 32.
        distilled: with the second classifier, as published.
        checkpoint: a file of weights (`load_checkpoint`); random weights without.

    Raises:
        InputError: for an unknown name, an input size that does not divide, or weights that do not fit.
    """
    if name not in PRESETS:
        raise InputError(f"unknown model {name!r}; known: {', '.join(list_models())}")
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    architecture = dataclasses.replace(
        PRESETS[name], num_classes=num_classes, in_channels=in_chans, input_size=size, distilled=distilled
    )
    model = EfficientFormer(architecture).eval()
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model
