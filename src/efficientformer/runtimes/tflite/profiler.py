"""LiteRT's profiler, through the C interface of the library in ai-edge-litert's wheel.

Neither the Python interpreter nor the wheel's `litert-benchmark` offers it. The declarations are those of
LiteRT's headers `litert_compiled_model.h`, `litert_tensor_buffer.h` and `litert_profiler.h`, version 2.3.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import sys
import time
from ctypes import byref, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes.base import NoProfilerError

_CPU, _WRITE = 1, 1
_BUILTIN, _DELEGATED = 2, 8  # kinds of events: an operator of TensorFlow Lite's own, one inside XNNPACK
_ROOM, _BLANK = (
    512,
    b"\xa5",
)  # bytes kept for an event, several times what it takes, and what they hold before
_WARM_UP = 3
_DESTRUCTOR = ctypes.CFUNCTYPE(None, c_void_p)


@dataclass(frozen=True)
class Event:
    """One operator that ran.

    Attributes:
        tag: the kernel's name.
        delegated: whether XNNPACK ran it.
        index: its number in the file, or if XNNPACK ran it, in its part of the file.
        us: microseconds.
    """

    tag: str
    delegated: bool
    index: int
    us: int


def profile(path: Path, threads: int, array: np.ndarray, runs: int) -> tuple[list[list[Event]], list[float]]:
    """The operators of each of so many runs, and how many milliseconds each run took.

    Raises:
        NoProfilerError: if the wheel has no library with a profiler.
        InputError: if the library refuses the file.
    """
    events, whole = [], []
    with contextlib.ExitStack() as stack:
        model = _CompiledModel(_library(), stack, path, threads)
        model.give(array)
        for _ in range(_WARM_UP + runs):
            model.start_profiler()
            begun = time.perf_counter_ns()
            model.run()
            whole.append((time.perf_counter_ns() - begun) / 1e6)
            events.append(model.events())
    return events[_WARM_UP:], whole[_WARM_UP:]


def _library() -> ctypes.CDLL:
    import ai_edge_litert

    ending = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    path = Path(str(ai_edge_litert.__file__)).with_name(f"libLiteRt.{ending}")
    try:
        library = ctypes.CDLL(str(path))
        library.LiteRtCompiledModelGetProfiler  # noqa: B018 - AttributeError if it lacks a profiler
    except (OSError, AttributeError):
        raise NoProfilerError("tflite: this ai-edge-litert has no libLiteRt with a profiler") from None
    return library


class _CompiledModel:
    """A file loaded by the C interface with its profiler on; what it creates is destroyed with the stack."""

    def __init__(self, library: ctypes.CDLL, stack: contextlib.ExitStack, path: Path, threads: int) -> None:
        self._library, self._stack, self._path = library, stack, path
        self._payloads: list[Any] = []
        self._environment = self._new("Environment", "LiteRtCreateEnvironment", 0, None)
        self._file = self._new("Model", "LiteRtCreateModelFromFile", self._environment, bytes(path))
        options = self._new("Options", "LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._set(options, b"xnnpack", f"num_threads = {threads}\n")
        self._set(options, b"runtime_options_string", "enable_profiling = true\n")
        self._model = self._new(
            "CompiledModel", "LiteRtCreateCompiledModel", self._environment, self._file, options
        )
        self._profiler = self._get("LiteRtCompiledModelGetProfiler", self._model)
        self._input, self._output = self._buffer("Input"), self._buffer("Output")

    def give(self, array: np.ndarray) -> None:
        """Copy an input, of the file's own type, to where the model reads it."""
        address, size = c_void_p(), c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", self._input, byref(size))
        if size.value != array.nbytes:
            raise InputError(f"{self._path}: takes {size.value} bytes, not {array.nbytes}")
        self._call("LiteRtLockTensorBuffer", self._input, byref(address), _WRITE)
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, size.value)
        self._call("LiteRtUnlockTensorBuffer", self._input)

    def start_profiler(self) -> None:
        """Forget all events and record new ones."""
        self._call("LiteRtStartProfiler", self._profiler)

    def run(self) -> None:
        """One inference."""
        one = c_size_t(1)
        self._call(
            "LiteRtRunCompiledModel",
            *(self._model, c_size_t(0), one, byref(self._input), one, byref(self._output)),
        )

    def events(self) -> list[Event]:
        """The operators that ran since the profiler was started."""
        count = c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, byref(count))
        room = ctypes.create_string_buffer(_BLANK * _ROOM * count.value, _ROOM * count.value)
        self._call("LiteRtGetProfilerEvents", self._profiler, count, room)
        return _events(room.raw, count.value)

    def _buffer(self, side: str) -> c_void_p:
        signature = self._get("LiteRtGetModelSignature", self._file, c_size_t(0))
        tensor = self._get(f"LiteRtGetSignature{side}TensorByIndex", signature, c_size_t(0))
        kind = ctypes.create_string_buffer(_ROOM)  # a structure that is only handed on
        self._call("LiteRtGetRankedTensorType", tensor, kind)
        needs = self._get(
            f"LiteRtGetCompiledModel{side}BufferRequirements", self._model, c_size_t(0), c_size_t(0)
        )
        create = "LiteRtCreateManagedTensorBufferFromRequirements"
        return self._new("TensorBuffer", create, self._environment, kind, needs)

    def _set(self, options: c_void_p, section: bytes, toml: str) -> None:
        payload, keep = ctypes.create_string_buffer(toml.encode()), _DESTRUCTOR(lambda pointer: None)
        self._payloads.append((payload, keep))  # for as long as the options live
        given = self._get("LiteRtCreateOpaqueOptions", section, ctypes.cast(payload, c_void_p), keep)
        self._call("LiteRtAddOpaqueOptions", options, given)

    def _new(self, kind: str, function: str, *arguments: Any) -> c_void_p:
        handle = self._get(function, *arguments)
        destroy = getattr(self._library, f"LiteRtDestroy{kind}")
        destroy.restype = None
        self._stack.callback(destroy, handle)
        return handle

    def _get(self, function: str, *arguments: Any) -> c_void_p:
        handle = c_void_p()
        self._call(function, *arguments, byref(handle))
        return handle

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise InputError(f"{self._path}: {function} of LiteRT fails with status {status}")


def _events(room: bytes, count: int) -> list[Event]:
    """Read LiteRT's array of events, whose size depends on how much it says of memory."""
    filled = -(-len(room.rstrip(_BLANK)) // 8)
    words = filled // max(count, 1)
    if filled % max(count, 1) or words < 8:
        raise NoProfilerError("tflite: this ai-edge-litert's profiler lays its events out in another way")
    events = []
    for at in range(0, filled * 8, words * 8):
        tag, kind, _start, us = struct.unpack_from("<QIxxxxQQ", room, at)
        (index,) = struct.unpack_from("<q", room, at + (words - 3) * 8)
        if kind in (_BUILTIN, _DELEGATED):
            text = (ctypes.string_at(tag) or b"").decode(errors="replace")
            events.append(Event(text, kind == _DELEGATED, index, us))
    return events
