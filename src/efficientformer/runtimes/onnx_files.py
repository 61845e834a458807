"""ONNX files from modules: what ONNX Runtime runs and OpenVINO converts.

Nodes are named `<module path>/<operator>_<number>`, so that a runtime's profile can be read by block.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from efficientformer.runtimes.base import Traced, UnsupportedOperatorError, last_line

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20  # the first with Gelu as one operator
INPUT, OUTPUT = "images", "logits"
_SCOPES = "pkg.torch.onnx.name_scopes"


def convert(traced: Sequence[Traced], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """One ONNX model of several modules side by side, weights inside, one input and one output each.

    Raises:
        UnsupportedOperatorError: if the exporter has no counterpart for an operator.
    """
    import torch

    bundle = _bundle([item.module for item in traced])
    examples = tuple(torch.zeros(item.shape) for item in traced)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        try:
            program = torch.onnx.export(
                bundle,
                examples,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UnsupportedOperatorError(f"ONNX: the network cannot be exported: {_cause(error)}") from None
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return _named_by_module(program.model_proto, parted=len(traced) > 1)


def convert_one(traced: Traced) -> onnx.ModelProto:
    """One module as an ONNX model that takes `images` and gives `logits`."""
    return convert([traced], [INPUT], [OUTPUT])


def convert_each(traced: Sequence[Traced]) -> list[onnx.ModelProto]:
    """Several modules in one pass of the exporter, whose fixed cost is high, then parted."""
    from onnx.utils import Extractor

    inputs = [f"in{index}" for index in range(len(traced))]
    outputs = [f"out{index}" for index in range(len(traced))]
    extractor = Extractor(convert(traced, inputs, outputs))
    return [extractor.extract_model([i], [o]) for i, o in zip(inputs, outputs, strict=True)]


def module_of(node_name: str) -> str:
    """The module path in a node's name; empty if the node is none of ours."""
    path, slash, _ = node_name.partition("/")
    return path if slash else ""


def _bundle(modules: Sequence[nn.Module]) -> nn.Module:
    from torch import Tensor, nn

    class Bundle(nn.Module):
        """Several modules side by side, so that one export converts them all."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(modules)

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))

    return Bundle().eval()


def _named_by_module(model: onnx.ModelProto, *, parted: bool) -> onnx.ModelProto:
    """Put the module path that the exporter kept as metadata into each node's name."""
    made: dict[str, str] = {}  # by which module each tensor was
    for number, node in enumerate(model.graph.node):
        kept = {entry.key: entry.value for entry in node.metadata_props}
        scopes = [scope for scope in _listed(kept.get(_SCOPES, "")) if scope]
        path = scopes[-2] if len(scopes) > 1 else ""  # the last one is the operator itself
        path = path.removeprefix("parts.") if parted else path.removeprefix("parts.0").removeprefix(".")
        path = path or next((made[name] for name in node.input if name in made), "")
        made |= dict.fromkeys(node.output, path)
        node.name = f"{path}/{node.op_type}_{number}"
        del node.metadata_props[:]
    return model


def _listed(text: str) -> list[str]:
    """The strings of a Python list as the exporter prints it."""
    return [part.strip().strip("'\"") for part in text.strip("[]").split(",")]


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return last_line(error)
