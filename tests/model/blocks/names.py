"""timm's names inside a layer as ours, written down apart from `model/layouts.py`."""

from __future__ import annotations

from torch import Tensor, nn


def from_timm(module: nn.Module) -> dict[str, Tensor]:
    """A timm layer's entries under the names of ours."""
    renamed = {}
    for name, tensor in module.state_dict().items():
        parts = name.replace(".bn.", ".norm.").split(".")
        if parts[0] in ("conv", "conv1", "conv2") and len(parts) == 3:  # a convolution with its norm
            parts = [parts[0] if parts[1] == "conv" else parts[0].replace("conv", "norm"), parts[2]]
        renamed[".".join(parts)] = tensor
    return renamed
