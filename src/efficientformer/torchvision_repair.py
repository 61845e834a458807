"""Let timm be imported beside a torchvision wheel whose compiled operators cannot load.

Such a wheel (one built for CUDA beside a CPU torch, or for another torch) makes `import torchvision`, and
so `import timm`, fail with "operator torchvision::nms does not exist". Where the operators do load, nothing
is done. Only the two schemas that torchvision's import looks for are registered; calling them stays an error.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # a schema lives as long as the library that defined it


class RepairFirst(MetaPathFinder):
    """Repairs just before torchvision is first imported, and then is gone; it finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave every module to the finders after this one."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            repair()
        return None


def install() -> None:
    """Have the repair done when torchvision, and so timm, is imported; nothing if it was imported before."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, RepairFirst())


def repair() -> bool:
    """Register the schemas if they are missing. True if that was needed."""
    import torch

    if hasattr(torch.ops.torchvision, "nms") or _operators_load():
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(_SCHEMA.format(name))
    _libraries.append(library)
    return True


def _operators_load() -> bool:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to repair
    for path in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(path)
        except (OSError, RuntimeError):
            return False
    return hasattr(torch.ops.torchvision, "nms")
