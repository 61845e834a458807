"""OpenVINO: conversion from ONNX, running, quantisation by NNCF, and its counters read by operator."""

from efficientformer.runtimes.openvino.runtime import OpenVino

__all__ = ["OpenVino"]
