"""Core ML: export anywhere, running on macOS, and an interpreter of its programs for checks elsewhere."""

from efficientformer.runtimes.coreml.runtime import CoreMl

__all__ = ["CoreMl"]
