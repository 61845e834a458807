"""PyTorch itself, eager and compiled ahead of time: two runtimes on exported programs."""

from efficientformer.latency.runtimes.pytorch.compiled import Compiled
from efficientformer.latency.runtimes.pytorch.eager import PyTorch

__all__ = ["Compiled", "PyTorch"]
