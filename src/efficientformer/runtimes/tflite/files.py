"""From modules to the contents of .tflite files: litert-torch converts, ai-edge-quantizer quantises."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from efficientformer.runtimes.base import Traced, UnsupportedOperatorError
from efficientformer.runtimes.silence import quiet_native
from efficientformer.runtimes.tflite.parts import part

_NO_LOWERING = re.compile(r"Lowering not found: (\S+)")
_NO_KERNEL = re.compile(r"unresolved custom op: (\S+?)\.?\s|Didn't find op for builtin opcode '(\w+)'")

# XNNPACK has no int8 kernels for these, and TensorFlow Lite's own are slower than XNNPACK's float ones.
# (GELU between two conversions becomes a look-up table in XNNPACK.) A file takes and gives float32.
# ADD has one, but rounding the residual stream at each block moves the logits more and saves no time.
_FLOAT = (
    "INPUT",
    "OUTPUT",
    "ADD",
    "AVERAGE_POOL_2D",
    "BATCH_MATMUL",
    "DIV",
    "GELU",
    "HARD_SWISH",
    "MAXIMUM",
    "RSQRT",
    "SOFTMAX",
    "SQUARED_DIFFERENCE",
    "SUB",
)


def convert(traced: Traced) -> bytes:
    """One module as the content of a .tflite file.

    Raises:
        UnsupportedOperatorError: if the converter, or the interpreter, has no counterpart for an operator.
    """
    return _convert(traced.module, [traced.shape])


def convert_each(traced: Sequence[Traced]) -> list[bytes]:
    """Several modules, each as the content of a file of its own.

    They are converted side by side, since one conversion takes most of a second before it begins.
    """
    if len(traced) < 2:
        return [convert(item) for item in traced]
    bundle = _bundle([item.module for item in traced])
    return part(_convert(bundle, [item.shape for item in traced]), len(traced))


def _convert(module: Any, shapes: Sequence[tuple[int, ...]]) -> bytes:
    import torch

    module.eval()
    with _calm(), _without_gradients(module):
        import litert_torch

        try:
            model = litert_torch.convert(module, tuple(torch.zeros(shape) for shape in shapes))
        except Exception as error:  # the converter has no error class of its own
            raise UnsupportedOperatorError(f"tflite: {_reason(error)}") from None
        content = model.model_content()
        _check_kernels(content)
    return content


def _bundle(modules: Sequence[Any]) -> Any:
    from torch import nn

    class Bundle(nn.Module):
        """Several modules side by side."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(modules)

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            """Each module on its own input."""
            return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))

    return Bundle()


def quantise(content: bytes, images: np.ndarray) -> bytes:
    """A float32 file's content in int8, its input and output still float32.

    Convolutions and products with weights are int8. A linear layer that gives the output takes its ranges
    from each input and gives float32: fixed ones would cut off logits beyond those seen in calibration.

    Args:
        content: what `convert` gave.
        images: (n, channels, height, width) float32 to calibrate on; their order does not matter.
    """
    with _calm():
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.qtyping import TFLOperationName

        work = quantizer.Quantizer(content)
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        for name in _FLOAT:
            work.update_quantization_recipe(
                regex=".*", operation_name=TFLOperationName(name), algorithm_key=AlgorithmName.NO_QUANTIZE
            )
        for scope in _normalising(content):
            work.update_quantization_recipe(
                regex=re.escape(scope),
                operation_name=TFLOperationName.ALL_SUPPORTED,
                algorithm_key=AlgorithmName.NO_QUANTIZE,
            )
        for name in _outputs(content):
            work.add_dynamic_config(f"^{re.escape(name)};?$", TFLOperationName.FULLY_CONNECTED, num_bits=8)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            ranges = _ranges(content, work.get_quantization_recipe(), images)
            return bytes(work.quantize(ranges).quantized_model or b"")


def _ranges(content: bytes, recipe: Any, images: np.ndarray) -> dict[str, Any]:
    """The extremes of each activation over all images.

    `Quantizer.calibrate` has no choice but a moving average of each image's extremes, which cuts off what a
    usual image exceeds: on a network trained on Imagenette it moved the logits six times as far.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    manager = RecipeManager()
    manager.load_quantization_recipe(recipe)
    work = calibrator.Calibrator(content, num_threads=os.cpu_count() or 1, qsv_update_func=min_max_update)
    samples = [{"args_0": np.ascontiguousarray(image[None], np.float32)} for image in images]
    work.calibrate({"serving_default": samples}, manager)
    return work.get_model_qsvs()


@contextlib.contextmanager
def _calm() -> Generator[None]:
    """Neither warnings nor words from the packages called inside."""
    with warnings.catch_warnings(), quiet_native(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _without_gradients(module: Any) -> Generator[None]:
    """Parameters that need no gradients spare the converter a fifth of its time."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _check_kernels(content: bytes) -> None:
    from ai_edge_litert.interpreter import Interpreter

    try:
        Interpreter(model_content=content).allocate_tensors()
    except (ValueError, RuntimeError) as error:
        found = _NO_KERNEL.search(f"{error} ")
        name = next(filter(None, found.groups())) if found else str(error).partition("\n")[0]
        raise UnsupportedOperatorError(f"tflite: the interpreter has no kernel for {name}") from None


def _outputs(content: bytes) -> list[str]:
    """Names of the tensors that the file gives."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAsModel(content, 0).Subgraphs(0)
    return [graph.Tensors(graph.Outputs(at)).Name().decode() for at in range(graph.OutputsLength())]


def _normalising(content: bytes) -> list[str]:
    """Scopes of modules that divide by a standard deviation; 8 bits are too few for a variance."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(content, 0)
    graph, scopes = model.Subgraphs(0), []
    for at in range(graph.OperatorsLength()):
        operator = graph.Operators(at)
        if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.RSQRT:
            name = graph.Tensors(operator.Outputs(0)).Name().decode()
            scopes.append(name.rpartition(";")[0] + ";")
    return list(dict.fromkeys(scopes))


def _reason(error: Exception) -> str:
    if found := _NO_LOWERING.search(str(error)):
        return f"litert-torch has no counterpart for {found[1]}"
    line = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    return f"litert-torch cannot convert it: {line}"
