"""OpenVINO on CPUs and Intel GPUs: an .xml file of the network with its weights in a .bin beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes.base import (
    Settings,
    Trace,
    Traced,
    as_float32,
    each_calibration,
    last_line,
    missing,
)
from efficientformer.runtimes.onnx_files import convert_each, convert_one
from efficientformer.runtimes.openvino.model import from_onnx, package, quantised, the_core
from efficientformer.runtimes.openvino.profile import mean_ms, operators

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}  # of what is not quantised, for int8
_MAX_PROFILES = 5
_PRECISION = ["efficientformer", "precision"]  # where a file says what it was exported for


class OpenVino:
    """OpenVINO's intermediate representation, run by its CPU or GPU plugin."""

    name = "openvino"
    packages = ("openvino",)  # and nncf, to export int8
    extra = "openvino"
    suffix = ".xml"
    devices = ("cpu", "gpu")
    precisions = ("fp32", "bf16", "fp16", "int8")

    def trouble(self, device: str = "cpu") -> str | None:
        """None if OpenVINO loads and has a plugin for a device of this machine."""
        if why := missing(self):
            return why
        try:
            listed = the_core().available_devices
        except Exception as error:  # a missing system library, a wheel for another processor
            return f"it does not load: {last_line(error)}"
        if device == "gpu" and not any(one.startswith("GPU") for one in listed):
            return f"no Intel GPU with its OpenCL driver is visible; it has {', '.join(listed)}"
        return None

    def files(self, path: Path) -> tuple[Path, ...]:
        """The graph and its weights."""
        return (path, path.with_suffix(".bin"))

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Write one module; through ONNX, whose node names give each operator its module.

        fp32 and bf16 files are the same but for a mark: bfloat16 is chosen on loading.

        Raises:
            InputError: if int8 is wanted and there are no images to calibrate on.
            MissingRuntimeError: if int8 is wanted and nncf is not installed.
            UnsupportedOperatorError: if the converter cannot express the module.
        """
        (images,) = each_calibration([traced], precision, [] if calibration is None else [calibration])
        self._convert(convert_one(traced), path, precision, images)

    def export_many(
        self,
        traced: Sequence[Traced],
        folder: Path,
        precision: str = "fp32",
        calibration: Sequence[np.ndarray] = (),
    ) -> list[Path]:
        """Several modules, converted in one pass: `000.xml`, `001.xml`, …"""
        paths = [folder / f"{index:03}{self.suffix}" for index in range(len(traced))]
        images = each_calibration(traced, precision, calibration)
        for model, path, one in zip(convert_each(traced), paths, images, strict=True):
            self._convert(model, path, precision, one)
        return paths

    def load(self, path: Path, settings: Settings) -> OpenVinoSession:
        """A file compiled for so many threads, in exactly the precision asked for.

        Raises:
            InputError: if it is no such file, was exported in another precision, or the device has not got
                the precision or the cores.
        """
        return OpenVinoSession(_compiled(path, settings, profile=False))

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """Profile by OpenVINO's own counters; nothing sets them back but compiling anew, up to five times."""
        count = max(1, min(_MAX_PROFILES, runs // 4))
        shares = [runs // count + (index < runs % count) for index in range(count)]
        profiles, whole = [], []
        for share in shares:
            compiled = _compiled(path, settings, profile=True)
            session = OpenVinoSession(compiled)
            profiles.append(mean_ms(compiled, lambda run=session.run: run(array), share, whole))
        return Trace(operators(compiled, profiles), tuple(whole), "OpenVINO performance counters")

    def _convert(self, proto: Any, path: Path, precision: str, calibration: np.ndarray | None) -> None:
        """An ONNX model as a file in a precision; int8, if there is what to calibrate on."""
        model = from_onnx(proto)
        self._save(model if calibration is None else quantised(model, calibration), path, precision)

    def _save(self, model: Any, path: Path, precision: str) -> None:
        ov = package("openvino")
        model.set_rt_info(precision, _PRECISION)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
            partial = Path(folder) / path.name
            ov.save_model(model, partial, compress_to_fp16=precision == "fp16")
            path.unlink(missing_ok=True)  # an old graph must not meet new weights
            for source, target in reversed([*zip(self.files(partial), self.files(path), strict=True)]):
                source.replace(target)


class OpenVinoSession:
    """One compiled model with one input and one output."""

    def __init__(self, compiled: Any) -> None:
        self._input = compiled.inputs[0]
        self._tensor = package("openvino").Tensor
        self._request = compiled.create_infer_request()

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape; a free batch counts as 1, any other free dimension as 0."""
        batch, *image = self._input.partial_shape
        sides = tuple(side.get_length() if side.is_static else 0 for side in image)
        return (batch.get_length() if batch.is_static else 1, *sides)

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._input.element_type.get_type_name() == "f32"

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output for one float32 input, which is read where it lies."""
        self._request.set_input_tensor(0, self._tensor(np.ascontiguousarray(array), shared_memory=True))
        self._request.infer()
        return as_float32(self._request.get_output_tensor(0).data).copy()  # the next run writes there


def _compiled(path: Path, settings: Settings, *, profile: bool) -> Any:
    if why := OpenVino().trouble(settings.device):
        raise InputError(f"{path}: {why}")
    core = the_core()
    model = _read(core, path, settings.precision)
    _check_capable(core, path, settings)
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[settings.precision], "PERF_COUNT": profile}
    if settings.device == "cpu":
        options |= {"INFERENCE_NUM_THREADS": settings.threads, "NUM_STREAMS": 1}
        options |= {"ENABLE_CPU_PINNING": False, "ENABLE_HYPER_THREADING": True}  # any core, any logical one
    try:
        compiled = core.compile_model(model, settings.device.upper(), options)
    except Exception as error:  # the bindings raise plain RuntimeErrors
        raise InputError(f"{path}: OpenVINO cannot compile it: {last_line(error)}") from None
    if settings.device == "cpu" and compiled.get_property("INFERENCE_NUM_THREADS") != settings.threads:
        cores = compiled.get_property("INFERENCE_NUM_THREADS")
        raise InputError(f"{path}: OpenVINO takes at most {cores} threads here, not {settings.threads}")
    return compiled


def _read(core: Any, path: Path, precision: str) -> Any:
    if path.suffix != OpenVino.suffix or not path.is_file():
        raise InputError(f"{path}: no OpenVINO file of that name; it ends in {OpenVino.suffix}")
    try:
        model = core.read_model(path)
    except Exception as error:
        raise InputError(f"{path}: OpenVINO cannot read it: {last_line(error)}") from None
    made_for = model.get_rt_info(_PRECISION).astype(str) if model.has_rt_info(_PRECISION) else precision
    if made_for != precision and {made_for, precision} != {"fp32", "bf16"}:
        raise InputError(
            f"{path}: holds {made_for}, the target says {precision}; measure it with :precision={made_for}"
        )
    return model


def _check_capable(core: Any, path: Path, settings: Settings) -> None:
    """OpenVINO takes another precision, unasked, where the one asked for is missing."""
    native = core.get_property(settings.device.upper(), "OPTIMIZATION_CAPABILITIES")
    if settings.precision.upper() not in native:
        has = [one for one in OpenVino.precisions if one.upper() in native]
        raise InputError(
            f"{path}: this {settings.device} has no native {settings.precision}, only {', '.join(has)}"
        )
