"""ONNX Runtime, the default target, and its int8."""

from efficientformer.runtimes.onnxruntime.runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
