"""Layers and networks with random weights, to be timed before anything is trained.

Latency hardly depends on the weights' values, but for zeros: a converter that meets them leaves whole
branches out. So norms and LayerScales are drawn away from 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from efficientformer.architecture import Architecture
from efficientformer.layers import Layer
from efficientformer.model.blocks import build_layer
from efficientformer.model.blocks.base import LayerScale
from efficientformer.model.blocks.bias import BiasTable
from efficientformer.model.blocks.pool import FoldedPoolBlock, rescaled
from efficientformer.model.network import EfficientFormer
from efficientformer.runtimes import Runtime, Traced
from efficientformer.runtimes.base import random_image

_CALIBRATED = 4  # random images


def export_untrained(runtime: Runtime, traced: Sequence[Traced], folder: Path, precision: str) -> list[Path]:
    """Files of modules with random weights, to be timed in a precision.

    int8 takes its ranges from random numbers, the same each time: its time hardly depends on them.
    """
    images = [random_image((_CALIBRATED, *item.shape[1:])) for item in traced] if precision == "int8" else []
    return runtime.export_many(traced, folder, precision, images)


def input_shape(layer: Layer) -> tuple[int, ...]:
    """The shape of the map that a deployed layer takes, batch 1."""
    return (1, layer.in_width, layer.height, layer.width)


def deployed_layer(layer: Layer, seed: int = 0) -> nn.Module:
    """A layer with random weights, folded.

    Norms and LayerScales are drawn away from 0 and 1, so that no converter can leave a branch out.

    Args:
        layer: what to build.
        seed: of its weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build_layer(layer, layer_scale_init=0.5).eval()
        randomise_vectors(module)
        deployed = module.fold()
        if isinstance(deployed, FoldedPoolBlock):  # as it stands in a network
            deployed, _ = rescaled(deployed, torch.full((layer.in_width,), 0.5))
        return deployed.eval()


def randomise_vectors(module: nn.Module) -> None:
    """Give norms values between 0.5 and 1, LayerScales between 0.1 and 0.3, biases small ones but no zeros.

    A deployed stream is scaled by 1 − γ in every pooling block (`model/deploy.py`): γ near 1 would end that.
    """
    with torch.no_grad():
        for part in module.modules():
            low, high = (0.1, 0.3) if isinstance(part, LayerScale) else (0.5, 1.0)
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if isinstance(part, (nn.Linear, nn.Conv2d, BiasTable)):
                    if tensor is getattr(part, "bias", None) or isinstance(part, BiasTable):
                        _small(tensor)
                elif tensor.ndim == 1 and tensor.is_floating_point():
                    tensor.uniform_(low, high)


def _small(tensor: Tensor) -> None:
    if tensor.is_floating_point():
        tensor.uniform_(0.01, 0.1)


def untrained(architecture: Architecture) -> EfficientFormer:
    """A network with random weights for timing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EfficientFormer(architecture, layer_scale_init=0.5).eval()
        randomise_vectors(network)
    return network
