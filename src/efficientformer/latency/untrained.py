"""Layers and networks with random weights, to be timed before anything is trained.

Latency hardly depends on the weights' values, but for zeros: a converter that meets them leaves whole
branches out. So norms and LayerScales are drawn away from 0 and 1.
"""

from __future__ import annotations

import torch
from torch import nn

from efficientformer.architecture import Architecture
from efficientformer.layers import KINDS, Layer
from efficientformer.model.blocks import build_layer
from efficientformer.model.network import EfficientFormer


def input_shape(layer: Layer) -> tuple[int, ...]:
    """The shape of the tensor that a layer takes, batch 1."""
    if KINDS[layer.kind].layout == "tokens":
        return (1, layer.height * layer.width, layer.in_width)
    return (1, layer.in_width, layer.height, layer.width)


def deployed_layer(layer: Layer) -> nn.Module:
    """A layer with random weights, folded.

    Norms and LayerScales are drawn away from 0 and 1, so that no converter can leave a branch out.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_layer(layer, layer_scale_init=0.5).eval()
        randomise_norms(module)
        return module.fold().eval()


def randomise_norms(module: nn.Module) -> None:
    """Give every vector of a norm or LayerScale, trained or running, values between 0.5 and 1."""
    with torch.no_grad():
        for part in module.modules():
            own = (*part.parameters(recurse=False), *part.buffers(recurse=False))
            for tensor in own:
                if tensor.ndim == 1 and tensor.is_floating_point() and not isinstance(part, _WEIGHTED):
                    tensor.uniform_(0.5, 1.0)


def untrained(architecture: Architecture) -> EfficientFormer:
    """A network with random weights for timing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EfficientFormer(architecture, layer_scale_init=0.5).eval()
        randomise_norms(network)
    return network


_WEIGHTED = (nn.Linear, nn.Conv2d)
