"""The runtimes: one file each, all with the functions of `Runtime`."""

from efficientformer.latency.runtimes import onnxruntime
from efficientformer.latency.runtimes.base import Runtime, Session, Traced

RUNTIMES: dict[str, Runtime] = {"onnxruntime": onnxruntime.OnnxRuntime()}
"""Every runtime by the name it has in a target."""

__all__ = ["RUNTIMES", "Runtime", "Session", "Traced"]
