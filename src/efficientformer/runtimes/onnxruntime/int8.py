"""An int8 ONNX file from a float32 one, by ONNX Runtime's static quantisation.

Convolutions and products with weights are quantised, weights per output channel to 7 bits and activations
to 8; the rest stays float32. Seven bits, because processors without VNNI add pairs of 8-bit products
into 16 bits, which overflow. On one trained network (Imagenette, 1000 images), quantising additions, poolings
and attention's products too moved the logits more and was no faster, and a range up to the 99.99th percentile
moved them less than extremes or entropy did; by agreement of the top-1 class these could not be told apart.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from efficientformer.files import write_atomically
from efficientformer.runtimes.base import calibration_images
from efficientformer.runtimes.onnx_files import module_of
from efficientformer.runtimes.silence import quiet_python

if TYPE_CHECKING:
    import onnx

_OPERATORS = ("Conv", "Gemm", "MatMul", "Relu", "Clip")  # the last two melt into those before
_PERCENTILE = 99.99
_AT_ONCE = 8  # images whose activations are held in memory


def quantise(model: onnx.ModelProto, calibration: np.ndarray, path: Path) -> None:
    """Write a static int8 model (QuantizeLinear and DequantizeLinear around each quantised operator).

    Args:
        model: a float32 model with one input, weights inside.
        calibration: (n, …) float32, images as the network takes them; the same give the same file.
        path: the file to write.

    Raises:
        InputError: if there are no images, or they are not of the model's shape.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    sides = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    calibration_images(calibration, sides[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder, quiet_python():
        plain, prepared, quantised = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        onnx.save(model, plain)  # given a model, the next line would empty it
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # our shapes are all fixed
        reader = _Reader(model.graph.input[0].name, calibration)
        try:
            _quantise(prepared, quantised, reader, "Percentile")
        except ValueError:  # NumPy finds too many bins for a range, as in LeViT
            _quantise(prepared, quantised, reader, "MinMax")
        finished = onnx.load(quantised)
    _free_output(finished)
    _name_by_module(finished)
    write_atomically(path, finished.SerializeToString())


def _quantise(prepared: Path, quantised: Path, reader: _Reader, method: str) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        prepared,
        quantised,
        cast(Any, reader),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_OPERATORS),
        nodes_to_exclude=_weightless(onnx.load(prepared)),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options={
            "CalibPercentile": _PERCENTILE,
            "CalibStridedMinMax": math.gcd(len(reader), _AT_ONCE),
        },
    )


def _weightless(model: onnx.ModelProto) -> list[str]:
    """The matrix products of two activations."""
    weights = {one.name for one in model.graph.initializer}
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if weights.isdisjoint(node.input)]


class _Reader:
    """Calibration images one by one, in the form that ONNX Runtime asks for (`CalibrationDataReader`)."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self._name = name
        self._images = np.ascontiguousarray(images, dtype=np.float32)
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {self._name: image[None]}


def _free_output(model: onnx.ModelProto) -> None:
    """Let the logits stay float32: quantised, those beyond the range seen in calibration would be cut off."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[graph.output[0].name]
    if last.op_type != "DequantizeLinear":
        return
    rounding = makers[last.input[0]]
    source = makers[rounding.input[0]]
    graph.node.remove(last)
    graph.node.remove(rounding)
    source.output[0] = graph.output[0].name
    used = {name for node in graph.node for name in node.input}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name the nodes that were put in after the module of what they feed."""
    feeds: dict[str, str] = {}
    for number, node in reversed([*enumerate(model.graph.node)]):
        module = module_of(node.name) or next((feeds[name] for name in node.output if name in feeds), "")
        if module and not module_of(node.name):
            node.name = f"{module}/{node.op_type}_q{number}"
        feeds.update(dict.fromkeys(node.input, module) if module else {})
