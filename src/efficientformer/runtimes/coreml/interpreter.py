"""A Core ML program interpreted with torch, to check what the converter wrote where Core ML does not run.

It says nothing of Apple's kernels. Every operator is computed in float32 and rounded to the type that the
program gives its result. Operators are those of Apple's MIL, as coremltools documents them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from efficientformer.errors import InputError
from efficientformer.runtimes.base import UnsupportedOperatorError, as_float32
from efficientformer.runtimes.coreml.package import describe, specification
from efficientformer.runtimes.silence import quiet_python

Values = dict[str, Any]


def interpret(path: Path, array: np.ndarray) -> np.ndarray:
    """The first output of a saved program for one float32 input.

    Raises:
        InputError: if it is not a Core ML program.
        UnsupportedOperatorError: naming an operator that is not known here.
    """
    return InterpretedSession(path).run(array)


class InterpretedSession:
    """A saved program as a session: slow, for comparisons of numbers only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        spec = specification(path)
        self._about = describe(spec)
        self._main = _program(path, spec)

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, batch first."""
        return self._about.shape

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        return self._about.float32

    def run(self, array: np.ndarray) -> np.ndarray:
        """The first output for one float32 input."""
        if array.shape != self.shape:
            raise InputError(f"{self._path}: it takes {self.shape}, not {array.shape}")
        values: Values = {name: torch.from_numpy(array) for name in self._main.inputs}
        with torch.no_grad():
            for operation in self._main.operations:
                _step(operation, values)
        return as_float32(values[self._main.outputs[0].name].float().numpy())


def _program(path: Path, spec: Any) -> Any:
    with quiet_python():
        from coremltools.converters.mil.frontend.milproto import load

        weights = path / "Data" / "com.apple.CoreML" / "weights"
        program = load.load(spec, spec.specificationVersion, str(weights))
    return next(iter(program.functions.values()))


def _step(operation: Any, values: Values) -> None:
    """Compute one operation's outputs from the values so far."""
    if operation.op_type == "const":
        return
    compute = OPERATORS.get(operation.op_type)
    if compute is None:
        raise UnsupportedOperatorError(f"coreml: the check has no counterpart for {operation.op_type}")
    given = {name: _value(variable, values) for name, variable in operation.inputs.items()}
    try:
        result = compute(**{name: value for name, value in given.items() if value is not None})
    except TypeError as error:  # an input of the operator that its counterpart does not know
        raise UnsupportedOperatorError(f"coreml: the check of {operation.op_type} fails: {error}") from None
    results = result if isinstance(result, (tuple, list)) else [result]
    for variable, tensor in zip(operation.outputs, results, strict=True):
        values[variable.name] = _rounded(tensor, variable)


def _value(variable: Any, values: Values) -> Any:
    """A computed tensor in float32; a constant as a tensor if of floats, else as a list, number or text."""
    if variable is None:
        return None
    if isinstance(variable, (list, tuple)):
        return [_value(one, values) for one in variable]
    if variable.name in values:
        tensor = values[variable.name]
        return tensor.float() if tensor.is_floating_point() else tensor
    constant = variable.val
    if isinstance(constant, np.ndarray) and constant.ndim:
        floats = np.issubdtype(constant.dtype, np.floating)
        return torch.from_numpy(constant.astype(np.float32)) if floats else constant.tolist()
    return constant.item() if isinstance(constant, (np.generic, np.ndarray)) else constant


def _rounded(tensor: Any, variable: Any) -> Tensor:
    half = getattr(variable.dtype, "__name__", "") == "fp16"
    tensor = torch.as_tensor(tensor)
    return tensor.half() if half and tensor.is_floating_point() else tensor


def _pads(
    x: Tensor, pad_type: str, pad: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """What is added before and after each spatial dimension, in torch's order: the last one first."""
    pairs: list[tuple[int, int]] = []
    for index, (side, window, stride) in enumerate(zip(x.shape[2:], windows, strides, strict=True)):
        if pad_type == "custom":
            pairs.append((pad[2 * index], pad[2 * index + 1]))
        elif pad_type == "valid":
            pairs.append((0, 0))
        else:  # same, same_lower: as many outputs as strides; the odd one goes after or before
            total = max((math.ceil(side / stride) - 1) * stride + window - side, 0)
            less = total // 2
            pairs.append((total - less, less) if pad_type == "same_lower" else (less, total - less))
    return [side for pair in reversed(pairs) for side in pair]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    windows = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    x = F.pad(x, _pads(x, pad_type, pad, windows, strides))
    convolve = F.conv2d if weight.ndim == 4 else F.conv1d
    return convolve(x, weight, bias, list(strides), 0, list(dilations), groups)


def _avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    pads = _pads(x, pad_type, pad, kernel_sizes, strides)

    def means(y: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(y, pads), kernel_sizes, strides, ceil_mode=ceil_mode)

    return means(x) / means(torch.ones_like(x)) if exclude_padding_from_average else means(x)


def _max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: bool = False,
) -> Tensor:
    pads = _pads(x, pad_type, pad, kernel_sizes, strides)
    return F.max_pool2d(F.pad(x, pads, value=-math.inf), kernel_sizes, strides, ceil_mode=ceil_mode)


def _layer_norm(
    x: Tensor,
    axes: Sequence[int],
    epsilon: float = 1e-5,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    dims = [axis % x.ndim for axis in axes]
    shape = [side if index in dims else 1 for index, side in enumerate(x.shape)]
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    x = (x - mean) / (variance + epsilon).sqrt()
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


def _instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    return F.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def _matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A 0 keeps a side."""
    return x.reshape([side or x.shape[index] for index, side in enumerate(shape)])


def _split(
    x: Tensor, axis: int, split_sizes: list[int] | None = None, num_splits: int | None = None
) -> tuple[Tensor, ...]:
    return x.split(split_sizes or x.shape[axis] // (num_splits or 1), axis)


def _slice_by_index(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    nothing = [False] * x.ndim
    index: list[Any] = []
    for axis in range(x.ndim):
        first = None if (begin_mask or nothing)[axis] else begin[axis]
        last = None if (end_mask or nothing)[axis] else end[axis]
        single = (squeeze_mask or nothing)[axis]
        index.append(begin[axis] if single else slice(first, last, stride[axis] if stride else 1))
    return x[tuple(index)]


def _upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool = True,
) -> Tensor:
    if not align_corners and not half_pixel_centers:
        raise TypeError("upsampling without half-pixel centres is not known")
    size = [round(x.shape[2] * scale_factor_height), round(x.shape[3] * scale_factor_width)]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def _squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    ndim = x.ndim + len(axes)
    for axis in sorted(axis % ndim for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    pairs = [pad[index : index + 2] for index in range(0, len(pad), 2)]
    return F.pad(x, [side for pair in reversed(pairs) for side in pair], mode, constant_val)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


def _reduction(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def over(x: Tensor, axes: Sequence[int] | None = None, keep_dims: bool = False) -> Tensor:
        return reduce(x, list(axes) if axes is not None else list(range(x.ndim)), keep_dims)

    return over


def _two(function: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    """Arithmetic on tensors and numbers."""
    return lambda x, y: function(torch.as_tensor(x), torch.as_tensor(y))


OPERATORS: dict[str, Callable[..., Any]] = {
    "add": _two(torch.add),
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda x, dtype: x,  # rounded to the result's type, like every result
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": lambda values, axis, interleave=False: torch.cat(values, axis),
    "conv": _conv,
    "erf": torch.erf,
    "exp": lambda x: x.exp(),
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": lambda x: x,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, alpha),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": _two(torch.maximum),
    "minimum": _two(torch.minimum),
    "mul": _two(torch.mul),
    "pad": _pad,
    "pow": _two(torch.pow),
    "real_div": _two(torch.div),
    "reduce_max": _reduction(torch.amax),
    "reduce_mean": _reduction(torch.mean),
    "reduce_sum": _reduction(torch.sum),
    "relu": lambda x: x.relu(),
    "relu6": lambda x: x.clamp(0, 6),
    "reshape": _reshape,
    "rsqrt": lambda x, epsilon=1e-12: (x + epsilon).rsqrt(),
    "scaled_dot_product_attention": _attention,
    "sigmoid": lambda x: x.sigmoid(),
    "sigmoid_hard": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "silu": lambda x: F.silu(x),
    "slice_by_index": _slice_by_index,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": _split,
    "sqrt": lambda x: x.sqrt(),
    "square": lambda x: x.square(),
    "squeeze": _squeeze,
    "stack": lambda values, axis: torch.stack(values, axis),
    "sub": _two(torch.sub),
    "tanh": lambda x: x.tanh(),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0.0),
    "transpose": lambda x, perm: x.permute(perm),
    "upsample_bilinear": _upsample_bilinear,
}
