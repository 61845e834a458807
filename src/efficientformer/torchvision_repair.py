"""Let timm be imported beside a torchvision wheel whose compiled operators cannot load.

Such a wheel (one built for CUDA beside a CPU torch, or for another torch) makes `import torchvision`, and
so `import timm`, fail with "operator torchvision::nms does not exist". Where the operators do load, nothing
is done. Only the two schemas that torchvision's import looks for are registered; calling them stays an error.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # a schema lives as long as the library that defined it


def repair() -> bool:
    """Register the schemas if they are missing. True if that was needed."""
    if hasattr(torch.ops.torchvision, "nms") or _operators_load():
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(_SCHEMA.format(name))
    _libraries.append(library)
    return True


def _operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to repair
    for path in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(path)
        except (OSError, RuntimeError):
            return False
    return hasattr(torch.ops.torchvision, "nms")
