"""PyTorch itself, eager and compiled ahead of time: two runtimes on exported programs."""

from efficientformer.runtimes.pytorch.compiled import Compiled
from efficientformer.runtimes.pytorch.eager import PyTorch

__all__ = ["Compiled", "PyTorch"]
