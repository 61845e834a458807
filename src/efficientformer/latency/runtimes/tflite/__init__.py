"""TensorFlow Lite (LiteRT) with XNNPACK: conversion, quantisation, running, and its C profiler."""

from efficientformer.latency.runtimes.tflite.runtime import TfLite

__all__ = ["TfLite"]
