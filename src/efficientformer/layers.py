"""The pieces an architecture is made of, and what each costs: `Layer` and the `KINDS` there are.

Pure data: no torch here. A kind's parameters and multiply-accumulates are counted from its shape alone.
To add a kind of block: its counts in `KINDS` here, its module in `MODULES` (`model/blocks/`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from efficientformer.errors import InputError

Layout = Literal["map", "tokens"]  # (B, C, H, W), and (B, H·W, C)
MAX_POSITIONS = 16_384
"""Positions that a layer may attend over: each pair has its bias, and the indices of all are then 2 GiB."""
Role = Literal["stem", "embed", "block", "head"]


@dataclass(frozen=True)
class Attention:
    """The shape of multi-head attention [code]: LeViT's, values wider than keys."""

    heads: int = 8
    key_dim: int = 32
    value_dim: int = 128

    @property
    def key_width(self) -> int:
        """Outputs of the query projection, and of the key projection."""
        return self.heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Outputs of the value projection."""
        return self.heads * self.value_dim

    @property
    def qkv_width(self) -> int:
        """Outputs of the joint query-key-value projection."""
        return 2 * self.key_width + self.value_width


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image, by operator."""

    convolution: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.convolution + self.linear + self.attention

    def __add__(self, other: Macs) -> Macs:
        return Macs(
            self.convolution + other.convolution,
            self.linear + other.linear,
            self.attention + other.attention,
        )


@dataclass(frozen=True)
class Layer:
    """One costed piece of an architecture: the latency table's row key.

    Attributes:
        kind: a name in `KINDS`.
        in_width: channels in.
        out_width: channels out (classes, for the head).
        height: rows of the feature map that comes in, in pixels or tokens.
        width: columns of the same.
        expansion: hidden width of the MLP over its width; 0 where there is none.
        activation: its activation; empty where there is none.
        attention: heads and dimensions, for layers that attend.
        heads: classifiers, for the head only: 1, or 2 with a distillation head.
    """

    kind: str
    in_width: int
    out_width: int
    height: int
    width: int
    expansion: int = 0
    activation: str = ""
    attention: Attention | None = None
    heads: int = 0

    @property
    def params(self) -> int:
        """Learned parameters, in the form that is trained (norms and LayerScale not folded)."""
        return KINDS[self.kind].params(self)

    @property
    def macs_by_operator(self) -> Macs:
        """Multiply-accumulates for one image: convolutions, linears and attention's two products apart."""
        return KINDS[self.kind].macs(self)

    @property
    def macs(self) -> int:
        """All of them together."""
        return self.macs_by_operator.total

    @property
    def bias_grid(self) -> tuple[int, int] | None:
        """(rows, columns) of its attention-bias table; None where it has none."""
        stride = KINDS[self.kind].key_stride
        return (self.height // stride, self.width // stride) if stride else None

    @property
    def attention_shape(self) -> Attention:
        """Its heads and dimensions.

        Raises:
            InputError: if it was described without.
        """
        if self.attention is None:
            raise InputError(f"{self}: a layer that attends needs its `attention` shape")
        return self.attention

    def key(self) -> str:
        """The layer as canonical JSON: equal layers, equal keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    def __str__(self) -> str:
        widths = (
            str(self.in_width) if self.in_width == self.out_width else f"{self.in_width}→{self.out_width}"
        )
        return f"{self.kind} {widths} @{self.height}×{self.width}"


@dataclass(frozen=True)
class LayerKind:
    """What is known of a kind of layer without building it.

    Attributes:
        layout: of the tensor it takes in training; every deployed layer takes maps.
        role: where in a network it may stand.
        mark: one letter for drawings of networks.
        key_stride: the input's grid over that of the keys it attends to; 0 where nothing attends.
    """

    layout: Layout
    role: Role
    params: Callable[[Layer], int]
    macs: Callable[[Layer], Macs]
    mark: str = ""
    key_stride: int = 0


def _no_params(_: Layer) -> int:
    return 0


def _no_macs(_: Layer) -> Macs:
    return Macs()


def _conv_bn(inputs: int, outputs: int, kernel: int = 1) -> int:
    """Parameters of a convolution with bias and its batch norm; `inputs` is 1 where it is depthwise."""
    return kernel**2 * inputs * outputs + 3 * outputs


def _pixels(layer: Layer) -> int:
    return layer.height * layer.width


def _hidden(layer: Layer) -> int:
    return layer.expansion * layer.in_width


def _products(shape: Attention, queries: int, keys: int) -> int:
    return queries * keys * (shape.key_width + shape.value_width)


def _stem_params(layer: Layer) -> int:
    half = layer.out_width // 2
    return _conv_bn(layer.in_width, half, 3) + _conv_bn(half, layer.out_width, 3)


def _stem_macs(layer: Layer) -> Macs:
    half, pixels = layer.out_width // 2, _pixels(layer)
    return Macs(9 * (pixels // 4 * layer.in_width * half + pixels // 16 * half * layer.out_width))


def _stem_patch_params(layer: Layer) -> int:
    return _conv_bn(layer.in_width, layer.out_width, 4)


def _stem_patch_macs(layer: Layer) -> Macs:
    return Macs(_pixels(layer) * layer.in_width * layer.out_width)  # each pixel is in one patch


def _embed_params(layer: Layer) -> int:
    return _conv_bn(layer.in_width, layer.out_width, 3)


def _embed_macs(layer: Layer) -> Macs:
    return Macs(9 * _pixels(layer) // 4 * layer.in_width * layer.out_width)


def _mlp_macs(layer: Layer) -> int:
    return 2 * _pixels(layer) * layer.in_width * _hidden(layer)


def _pool_params(layer: Layer) -> int:
    width, hidden = layer.in_width, _hidden(layer)
    return _conv_bn(width, hidden) + _conv_bn(hidden, width) + 2 * width  # two LayerScales


def _attention_params(layer: Layer) -> int:
    shape, width, hidden = layer.attention_shape, layer.in_width, _hidden(layer)
    qkv = (width + 1) * shape.qkv_width + shape.heads * _pixels(layer)
    proj = (shape.value_width + 1) * width
    mlp = 2 * width * hidden + hidden + width
    return qkv + proj + mlp + 6 * width  # two LayerNorms, two LayerScales


def _attention_macs(layer: Layer) -> Macs:
    shape, tokens = layer.attention_shape, _pixels(layer)
    projections = tokens * layer.in_width * (shape.qkv_width + shape.value_width)
    return Macs(linear=projections + _mlp_macs(layer), attention=_products(shape, tokens, tokens))


def _ffn_params(layer: Layer) -> int:
    width, hidden = layer.in_width, _hidden(layer)
    return _conv_bn(width, hidden) + _conv_bn(1, hidden, 3) + _conv_bn(hidden, width) + width


def _ffn_macs(layer: Layer) -> Macs:
    return Macs(_mlp_macs(layer) + 9 * _pixels(layer) * _hidden(layer))


def _attention2d_params(layer: Layer) -> int:
    shape, width, grid = layer.attention_shape, layer.in_width, layer.bias_grid or (0, 0)
    qkv = _conv_bn(width, shape.key_width) * 2 + _conv_bn(width, shape.value_width)
    local = _conv_bn(1, shape.value_width, 3)
    talking = 2 * (shape.heads + 1) * shape.heads
    biases = shape.heads * grid[0] * grid[1]
    strided = _conv_bn(1, width, 3) if KINDS[layer.kind].key_stride == 2 else 0
    mixer = qkv + local + talking + biases + strided + _conv_bn(shape.value_width, width)
    return mixer + width + _ffn_params(layer)  # with the mixer's LayerScale


def _attention2d_macs(layer: Layer) -> Macs:
    shape, width, grid = layer.attention_shape, layer.in_width, layer.bias_grid or (0, 0)
    tokens = grid[0] * grid[1]
    convolution = tokens * (width * shape.qkv_width + 9 * shape.value_width)
    convolution += 2 * shape.heads**2 * tokens**2  # the talking heads
    convolution += 9 * tokens * width if KINDS[layer.kind].key_stride == 2 else 0
    convolution += _pixels(layer) * shape.value_width * width
    return _ffn_macs(layer) + Macs(convolution, attention=_products(shape, tokens, tokens))


def _embed_attention_params(layer: Layer) -> int:
    shape, width = layer.attention_shape, layer.in_width
    query = 10 * width + _conv_bn(width, shape.key_width)
    key_value = _conv_bn(width, shape.key_width) + _conv_bn(width, shape.value_width)
    local = _conv_bn(1, shape.value_width, 3)
    biases = shape.heads * _pixels(layer)
    return (
        _embed_params(layer)
        + query
        + key_value
        + local
        + biases
        + _conv_bn(shape.value_width, layer.out_width)
    )


def _embed_attention_macs(layer: Layer) -> Macs:
    shape, width, keys = layer.attention_shape, layer.in_width, _pixels(layer)
    queries = keys // 4
    convolution = queries * width * (9 + shape.key_width) + keys * width * (
        shape.key_width + shape.value_width
    )
    convolution += queries * shape.value_width * (9 + layer.out_width)
    return _embed_macs(layer) + Macs(convolution, attention=_products(shape, queries, keys))


def _head_params(layer: Layer) -> int:
    return 2 * layer.in_width + layer.heads * (layer.in_width + 1) * layer.out_width


def _head_macs(layer: Layer) -> Macs:
    return Macs(linear=layer.heads * layer.in_width * layer.out_width)


KINDS: dict[str, LayerKind] = {
    "stem": LayerKind("map", "stem", _stem_params, _stem_macs),
    "stem_patch": LayerKind("map", "stem", _stem_patch_params, _stem_patch_macs),
    "embed": LayerKind("map", "embed", _embed_params, _embed_macs),
    "embed_attention": LayerKind(
        "map", "embed", _embed_attention_params, _embed_attention_macs, key_stride=1
    ),
    "head": LayerKind("tokens", "head", _head_params, _head_macs),
    "head2d": LayerKind("map", "head", _head_params, _head_macs),
    "identity": LayerKind("map", "block", _no_params, _no_macs, "·"),
    "pool": LayerKind("map", "block", _pool_params, lambda layer: Macs(_mlp_macs(layer)), "P"),
    "attention": LayerKind("tokens", "block", _attention_params, _attention_macs, "A", 1),
    "ffn": LayerKind("map", "block", _ffn_params, _ffn_macs, "F"),
    "attention2d": LayerKind("map", "block", _attention2d_params, _attention2d_macs, "T", 1),
    "attention2d_strided": LayerKind("map", "block", _attention2d_params, _attention2d_macs, "S", 2),
}
"""Every kind of layer: the layout it takes, its place in a network, and its exact counts."""


def kinds_of(role: Role) -> tuple[str, ...]:
    """The kinds that may stand in one place of a network."""
    return tuple(kind for kind, facts in KINDS.items() if facts.role == role)


STEMS, EMBEDS = kinds_of("stem"), kinds_of("embed")
BLOCKS, HEADS = kinds_of("block"), kinds_of("head")
