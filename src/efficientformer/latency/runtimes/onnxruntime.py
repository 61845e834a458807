"""ONNX Runtime on the CPU: the default target."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnx.utils
import onnxruntime
import torch
from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.latency.runtimes.base import Traced

OPSET = 20  # the first with Gelu as one operator


class OnnxRuntime:
    """ONNX files, run by ONNX Runtime's CPU provider."""

    suffix = ".onnx"
    devices = ("cpu",)
    precisions = ("fp32",)

    def version(self) -> str:
        """The installed version."""
        return onnxruntime.__version__

    def export(self, traced: Traced, path: Path) -> None:
        """Write one module as an ONNX file with its weights inside, the input named `images`."""
        model = _convert([traced], ["images"], ["logits"])
        write_atomically(path, model.SerializeToString())

    def export_many(self, traced: Sequence[Traced]) -> list[bytes]:
        """Convert several modules in one pass of the exporter, whose fixed cost is high, then part them."""
        inputs = [f"in{index}" for index in range(len(traced))]
        outputs = [f"out{index}" for index in range(len(traced))]
        extractor = onnx.utils.Extractor(_convert(traced, inputs, outputs))
        pairs = zip(inputs, outputs, strict=True)
        return [extractor.extract_model([i], [o]).SerializeToString() for i, o in pairs]

    def load(self, source: Path | bytes, threads: int) -> OnnxSession:
        """A session on so many threads, none of which spins while it waits.

        Raises:
            InputError: if the file is not an ONNX model that this runtime can run.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = source if isinstance(source, bytes) else str(source)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own error classes are not public
            name = "model" if isinstance(source, bytes) else source
            raise InputError(f"{name}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from None
        return OnnxSession(session)


class OnnxSession:
    """One loaded ONNX model with one input and one output."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
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
        return cast(np.ndarray, self._session.run(None, {self._input.name: array})[0])


class _Bundle(nn.Module):
    """Several modules side by side, so that one export converts them all."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Each module on its own input."""
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


def _convert(traced: Sequence[Traced], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    bundle = _Bundle([item.module for item in traced]).eval()
    examples = tuple(torch.zeros(item.shape) for item in traced)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        program = torch.onnx.export(
            bundle,
            examples,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return program.model_proto
