"""ONNX Runtime: the default target."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.runtimes.base import (
    Operator,
    Settings,
    Trace,
    Traced,
    as_float32,
    each_calibration,
    last_line,
    missing,
)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CONVERTING = ("Reorder", "Transpose", "Cast", "QuantizeLinear", "DequantizeLinear", "Memcpy")
_WARM_UP = 3
_FUSED = ("BatchNormalization", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")


class OnnxRuntime:
    """ONNX files, run by ONNX Runtime."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = ""
    suffix = ".onnx"
    devices = ("cpu", "cuda")
    precisions = ("fp32", "int8")

    def trouble(self, device: str = "cpu") -> str | None:
        """Not installed, or built without the device."""
        if lacking := missing(self):
            return lacking
        import onnxruntime

        if PROVIDERS[device] not in onnxruntime.get_available_providers():
            return f"the installed onnxruntime has no {PROVIDERS[device]}; pip install onnxruntime-gpu"
        return None

    def files(self, path: Path) -> tuple[Path, ...]:
        """One file with the weights inside."""
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module as an ONNX file with its weights inside, the input named `images`."""
        from efficientformer.runtimes.onnx_files import convert_one

        (images,) = each_calibration([traced], precision, [] if calibration is None else [calibration])
        _save(convert_one(traced), path, images)

    def export_many(
        self,
        traced: Sequence[Traced],
        folder: Path,
        precision: str = "fp32",
        calibration: Sequence[np.ndarray] = (),
    ) -> list[Path]:
        """Several modules in one pass of the exporter, a file each."""
        from efficientformer.runtimes.onnx_files import convert_each

        paths = [folder / f"{index}{self.suffix}" for index in range(len(traced))]
        images = each_calibration(traced, precision, calibration)
        for path, model, one in zip(paths, convert_each(traced), images, strict=True):
            _save(model, path, one)
        return paths

    def load(self, path: Path, settings: Settings) -> OnnxSession:
        """A session on so many threads, none of which spins while it waits."""
        return OnnxSession(_session(path, settings, profile_to=None))

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """ONNX Runtime's own trace: a node's kernel time, medians over the runs."""
        with tempfile.TemporaryDirectory() as folder:
            session = _session(path, settings, profile_to=Path(folder) / "trace")
            inner, whole = OnnxSession(session), []
            for _ in range(_WARM_UP + runs):
                begun = time.perf_counter_ns()
                inner.run(array)
                whole.append((time.perf_counter_ns() - begun) / 1e6)
            events = json.loads(Path(session.end_profiling()).read_text())
        operators = _by_node(events, settings, _modules(path))
        return Trace(operators, tuple(whole[_WARM_UP:]), "ONNX Runtime's session profiler")


class OnnxSession:
    """One loaded ONNX model with one input and one output."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape; a free batch counts as 1, any other free dimension as 0."""
        batch, *image = self._input.shape
        sides = tuple(side if isinstance(side, int) else 0 for side in image)
        return (batch if isinstance(batch, int) else 1, *sides)

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._input.type == "tensor(float)"

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output for one float32 input."""
        return as_float32(self._session.run(None, {self._input.name: array})[0])


def _save(model: Any, path: Path, calibration: np.ndarray | None) -> None:
    """Write a float32 model, quantised if there is what to calibrate on."""
    if calibration is None:
        write_atomically(path, model.SerializeToString())
    else:
        from efficientformer.runtimes.onnxruntime.int8 import quantise

        quantise(model, calibration, path)


def _session(path: Path, settings: Settings, profile_to: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    provider = PROVIDERS[settings.device]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # the runtime's own error classes are not public
        raise InputError(f"{path}: ONNX Runtime cannot load it: {last_line(error)}") from None
    if session.get_providers()[0] != provider:  # it goes on with the CPU, and only logs that
        raise InputError(
            f"{path}: ONNX Runtime has {provider}, but it does not work here; see its requirements"
        )
    _check_precision(path, settings.precision)
    return session


def _check_precision(path: Path, asked: str) -> None:
    """A receipt says the precision, so a file must hold what the target says."""
    held = "int8" if b"QuantizeLinear" in path.read_bytes() else "fp32"
    if held != asked:
        raise InputError(f"{path}: holds {held}, the target says {asked}; measure it with :precision={held}")


def _modules(path: Path) -> dict[str, str]:
    """The module that made each tensor: convolutions in blocked layout are named after what they make."""
    import onnx

    from efficientformer.runtimes.onnx_files import module_of

    graph = onnx.load(path, load_external_data=False).graph
    made = {tensor: node for node in graph.node for tensor in node.output}
    return {tensor: module_of(_first(node, made).name) for tensor, node in made.items()}


def _first(node: Any, made: dict[str, Any]) -> Any:
    """The node that others were fused into: a convolution does its batch norm's and its activation's work."""
    while node.op_type in _FUSED and node.input[0] in made:
        node = made[node.input[0]]
    return node


def _source(name: str, modules: dict[str, str]) -> str:
    """The module path of a node, by its own name or by the tensor that a rewritten one is named after."""
    from efficientformer.runtimes.onnx_files import module_of

    own = module_of(name.removeprefix("fused "))
    return own or modules.get(re.sub(r"_nchwc(_token_\d+)?$", "", name), "")


def _by_node(
    events: list[dict[str, Any]], settings: Settings, modules: dict[str, str]
) -> tuple[Operator, ...]:
    times, about, order = defaultdict(list), {}, {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            key = (name, event["args"].get("node_index", ""))
            times[key].append(event["dur"] / 1e3)
            about[key], order[key] = event["args"], order.get(key, len(order))
    return tuple(
        _operator(key[0], statistics.median(times[key][_WARM_UP:]), about[key], settings, modules)
        for key in order
    )


def _operator(
    name: str, ms: float, about: dict[str, Any], settings: Settings, modules: dict[str, str]
) -> Operator:
    kind, source = about["op_name"], _source(name, modules)
    role = "compute"
    if about.get("provider") != PROVIDERS[settings.device]:
        role = "fallback"
    elif kind.startswith(_CONVERTING) and (not source or kind != "Transpose"):
        role = "convert"
    return Operator(name, kind, ms, source, _shapes(about), role)


def _shapes(about: dict[str, Any]) -> str:
    def listed(key: str) -> str:
        shapes = [next(iter(one.values())) for one in about.get(key, []) if one]
        return ", ".join("×".join(map(str, shape)) for shape in shapes if shape)

    return f"{listed('input_type_shape')} → {listed('output_type_shape')}"
