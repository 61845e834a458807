"""ExecuTorch with XNNPACK: its runtime, the operators rewritten for it, and what its files tell."""

from efficientformer.runtimes.executorch.runtime import ExecuTorch

__all__ = ["ExecuTorch"]
