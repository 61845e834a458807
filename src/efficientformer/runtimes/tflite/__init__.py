"""TensorFlow Lite (LiteRT) with XNNPACK: conversion, quantisation, running, and its C profiler."""

from efficientformer.runtimes.tflite.runtime import TfLite

__all__ = ["TfLite"]
