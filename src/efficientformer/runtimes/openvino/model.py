"""OpenVINO's own models, made from ONNX; each operator's name begins with its module's path."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientformer.runtimes.base import (
    MissingRuntimeError,
    UnsupportedOperatorError,
    installed,
    last_line,
)
from efficientformer.runtimes.onnx_files import INPUT, module_of

if TYPE_CHECKING:
    import onnx


@contextlib.contextmanager
def _without_telemetry() -> Generator[None]:
    """Importing openvino or nncf reports it to Google Analytics, unless their reporter cannot be imported."""
    reporter = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
        if reporter is not None:
            sys.modules["openvino_telemetry"] = reporter


def package(name: str) -> Any:
    """A package of OpenVINO's, imported without a word to anybody."""
    with _without_telemetry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@functools.cache
def the_core() -> Any:
    """The one core of this process, kept until its end.

    On processors with large register files each core of OpenVINO 2026.4 gives its thread an alternate signal
    stack, and puts back the one before it when it is freed. Freed in another order than made, that one is
    gone, and the next signal with a handler (torch's data loaders watch their workers) ends the process.
    """
    return package("openvino").Core()


def from_onnx(proto: onnx.ModelProto) -> Any:
    """An OpenVINO model of an ONNX one.

    Raises:
        UnsupportedOperatorError: if the converter has no counterpart for an operator.
    """
    ov = package("openvino")
    try:
        model = ov.convert_model(io.BytesIO(proto.SerializeToString()))
    except ov.frontend.OpConversionFailure as error:
        told = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-- ")]
        cause = told[0] if told else last_line(error)
        raise UnsupportedOperatorError(f"OpenVINO cannot convert the network: {cause}") from None
    name_by_module(model)
    return model


def quantised(model: Any, calibration: np.ndarray) -> Any:
    """An int8 model by NNCF: per-channel weights, ranges and biases from the images."""
    if installed("nncf") is None:
        raise MissingRuntimeError("nncf is not installed; pip install 'efficientformer[openvino]'")
    nncf = package("nncf")
    attends = any(op.get_type_name() == "Softmax" for op in model.get_ops())
    logger, quiet = logging.getLogger("nncf"), io.StringIO()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:  # its progress bars are printed
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantised = nncf.quantize(
                model,
                nncf.Dataset([image[None] for image in np.asarray(calibration, np.float32)]),
                subset_size=len(calibration),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if attends else None,
            )
    finally:
        logger.setLevel(level)
    name_by_module(quantised)
    return quantised


def name_by_module(model: Any) -> None:
    """Give the operators that a node was converted into the module of those around them."""
    nodes = [op for op in model.get_ordered_ops() if op.get_type_name() not in ("Constant", "Result")]
    for node, module in zip(nodes, sources(nodes), strict=True):
        if module and not _module(node_name(node)) and node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{module}/{node_name(node)}")


def sources(nodes: Sequence[Any]) -> list[str]:
    """Each node's module: its own, or else that of what it feeds, or else of what feeds it."""
    found = {node_name(node): _module(original_names(node)[0]) for node in nodes}
    for node in reversed(nodes):
        users = [node_name(user.get_node()) for out in node.outputs() for user in out.get_target_inputs()]
        found[node_name(node)] = _first(found, [node_name(node), *users])
    for node in nodes:
        feeds = [node_name(value.get_node()) for value in node.input_values()]
        found[node_name(node)] = _first(found, [node_name(node), *feeds])
    return [found[node_name(node)] for node in nodes]


def _first(found: dict[str, str], names: Sequence[str]) -> str:
    return next((found[name] for name in names if found.get(name)), "")


def _module(name: str) -> str:
    module = module_of(name)
    return "" if module == INPUT else module


def node_name(node: Any) -> str:
    """What OpenVINO calls an operator."""
    return str(node.get_friendly_name())


def original_names(node: Any) -> list[str]:
    """The names in the file of what runs as one; an empty one for what the runtime put in."""
    info = node.get_rt_info()
    if "originalLayersNames" not in info:  # a node of a file, not of a compiled model
        return [node_name(node)]
    return info["originalLayersNames"].astype(str).split(",")
