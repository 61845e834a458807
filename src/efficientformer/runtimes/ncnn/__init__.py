"""ncnn: conversion by pnnx, what its text files tell, and running."""

from efficientformer.runtimes.ncnn.runtime import Ncnn

__all__ = ["Ncnn"]
