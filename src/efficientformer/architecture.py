"""What a network is, as a value: `Architecture`, its `Layer`s, and the presets L1, L3 and L7.

Pure data: no torch here. The model builder, the latency table, the search, checkpoints and export all
take an `Architecture`, and nothing else describes a network. Read this file first.

    python -c "import efficientformer as ef; print(*ef.PRESETS['efficientformer_l1'].layers(), sep='\\n')"

Facts with `[code]` were read in the authors' public code (which made the published weights), where the
paper's text differs: Li et al., "EfficientFormer: Vision Transformers at MobileNet Speed", NeurIPS 2022.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from efficientformer.errors import InputError

FORMAT = "efficientformer.architecture/1"
STRIDE = 32
ACTIVATIONS = ("gelu", "relu", "hardswish", "silu", "gelu_tanh")

Layout = Literal["map", "tokens"]  # (B, C, H, W), and (B, H·W, C)


@dataclass(frozen=True)
class Attention:
    """The shape of multi-head attention in a MetaBlock 3D [code]: LeViT's, values wider than keys."""

    heads: int = 8
    key_dim: int = 32
    value_dim: int = 128

    @property
    def qkv_width(self) -> int:
        """Outputs of the joint query-key-value projection."""
        return self.heads * (2 * self.key_dim + self.value_dim)


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
        activation: the MLP's activation; empty where there is none.
        attention: heads and dimensions, for attention blocks only.
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
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and attention's two products, for one image."""
        return KINDS[self.kind].macs(self)

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
    """What is known of a kind of layer without building it. New kinds of block are added to `KINDS`."""

    layout: Layout
    params: Callable[[Layer], int]
    macs: Callable[[Layer], int]
    is_block: bool = False


def _none(_: Layer) -> int:
    return 0


def _conv_bn_params(inputs: int, outputs: int) -> int:
    return 9 * inputs * outputs + 3 * outputs  # 3×3 weights, bias, batch norm's two


def _stem_params(layer: Layer) -> int:
    half = layer.out_width // 2
    return _conv_bn_params(layer.in_width, half) + _conv_bn_params(half, layer.out_width)


def _stem_macs(layer: Layer) -> int:
    half, pixels = layer.out_width // 2, layer.height * layer.width
    return 9 * (pixels // 4 * layer.in_width * half + pixels // 16 * half * layer.out_width)


def _embed_params(layer: Layer) -> int:
    return _conv_bn_params(layer.in_width, layer.out_width)


def _embed_macs(layer: Layer) -> int:
    return 9 * layer.height * layer.width // 4 * layer.in_width * layer.out_width


def _mlp_macs(layer: Layer) -> int:
    return 2 * layer.height * layer.width * layer.expansion * layer.in_width**2


def _pool_params(layer: Layer) -> int:
    width, hidden = layer.in_width, layer.expansion * layer.in_width
    return 2 * width * hidden + 3 * hidden + 3 * width + 2 * width  # convolutions and norms, two LayerScales


def _attention_params(layer: Layer) -> int:
    shape = _attention_shape(layer)
    width, hidden = layer.in_width, layer.expansion * layer.in_width
    qkv = (width + 1) * shape.qkv_width + shape.heads * layer.height * layer.width
    proj = (shape.heads * shape.value_dim + 1) * width
    mlp = 2 * width * hidden + hidden + width
    return qkv + proj + mlp + 6 * width  # two LayerNorms, two LayerScales


def _attention_macs(layer: Layer) -> int:
    shape, tokens = _attention_shape(layer), layer.height * layer.width
    projections = tokens * layer.in_width * (shape.qkv_width + shape.heads * shape.value_dim)
    products = tokens**2 * shape.heads * (shape.key_dim + shape.value_dim)
    return projections + products + _mlp_macs(layer)


def _attention_shape(layer: Layer) -> Attention:
    if layer.attention is None:
        raise InputError(f"{layer}: an attention layer needs its `attention` shape")
    return layer.attention


def _head_params(layer: Layer) -> int:
    return 2 * layer.in_width + layer.heads * (layer.in_width + 1) * layer.out_width


def _head_macs(layer: Layer) -> int:
    return layer.heads * layer.in_width * layer.out_width


KINDS: dict[str, LayerKind] = {
    "stem": LayerKind("map", _stem_params, _stem_macs),
    "embed": LayerKind("map", _embed_params, _embed_macs),
    "flatten": LayerKind("map", _none, _none),
    "unflatten": LayerKind("tokens", _none, _none),
    "head": LayerKind("tokens", _head_params, _head_macs),
    "identity": LayerKind("map", _none, _none, is_block=True),
    "pool": LayerKind("map", _pool_params, lambda layer: _mlp_macs(layer), is_block=True),
    "attention": LayerKind("tokens", _attention_params, _attention_macs, is_block=True),
}
"""Every kind of layer: the layout it takes, and its exact counts."""

BLOCKS = tuple(kind for kind, facts in KINDS.items() if facts.is_block)


@dataclass(frozen=True)
class Block:
    """One position of a stage.

    `pool` is the paper's MB4D (pooling token mixer, map layout), `attention` its MB3D (multi-head
    self-attention, token layout), `identity` the position left out: it has no parameters and costs nothing.
    """

    kind: str
    expansion: int = 4


@dataclass(frozen=True)
class Stage:
    """Blocks of one width at one resolution."""

    width: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Architecture:
    """The whole description of one network: frozen, hashable, JSON in and out.

    Attributes:
        stages: four of them, at strides 4, 8, 16 and 32.
        input_size: (height, width) in pixels, each divisible by 32.
        num_classes: outputs of each classifier.
        in_channels: channels of the image.
        activation: the MLPs' activation (the stem's is ReLU [code]).
        distilled: a second classifier for the teacher's labels; the two are averaged at inference.
        attention: heads and dimensions of every attention block.

    Raises:
        InputError: on construction, if the values do not describe a network.
    """

    stages: tuple[Stage, ...]
    input_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000
    in_channels: int = 3
    activation: str = "gelu"
    distilled: bool = True
    attention: Attention = Attention()

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def params(self) -> int:
        """Learned parameters, both classifiers included."""
        return sum(layer.params for layer in self.layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image at `input_size`."""
        return sum(layer.macs for layer in self.layers())

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(stage.width for stage in self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage, identities not counted."""
        return tuple(sum(block.kind != "identity" for block in stage.blocks) for stage in self.stages)

    def grid(self, stage: int) -> tuple[int, int]:
        """(height, width) of the feature map in a stage, counted from 0."""
        stride = 4 * 2**stage
        return self.input_size[0] // stride, self.input_size[1] // stride

    def layers(self) -> tuple[Layer, ...]:
        """Its layers in order of execution, the changes of layout between them included."""
        return tuple(layer for _, layer in self.named_layers())

    def named_layers(self) -> list[tuple[str, Layer]]:
        """The same with names: `stem`, `stages.2.embed`, `stages.2.blocks.1`, `head`, …"""
        named = [("stem", Layer("stem", self.in_channels, self.widths[0], *self.input_size))]
        layout: Layout = "map"
        for index, stage in enumerate(self.stages):
            if index:
                above, grid = self.widths[index - 1], self.grid(index - 1)
                named += _change(layout, "map", above, grid, f"stages.{index}")
                named.append((f"stages.{index}.embed", Layer("embed", above, stage.width, *grid)))
                layout = "map"
            for position, block in enumerate(stage.blocks):
                if block.kind == "identity":
                    continue
                name, wanted = f"stages.{index}.blocks.{position}", KINDS[block.kind].layout
                named += _change(layout, wanted, stage.width, self.grid(index), name)
                named.append((name, self._block_layer(index, block)))
                layout = wanted
        named += _change(layout, "tokens", self.widths[-1], self.grid(3), "head")
        head = Layer("head", self.widths[-1], self.num_classes, *self.grid(3), heads=1 + self.distilled)
        return [*named, ("head", head)]

    def _block_layer(self, stage: int, block: Block) -> Layer:
        width = self.widths[stage]
        attention = self.attention if block.kind == "attention" else None
        return Layer(block.kind, width, width, *self.grid(stage), block.expansion, self.activation, attention)

    def block_layer(self, stage: int, position: int, kind: str | None = None) -> Layer:
        """The layer at a position, as it is or as another kind; no layer stands for an identity."""
        block = self.stages[stage].blocks[position]
        return self._block_layer(stage, dataclasses.replace(block, kind=kind or block.kind))

    def compact(self) -> Architecture:
        """The same network without its identities."""
        stages = (Stage(s.width, tuple(b for b in s.blocks if b.kind != "identity")) for s in self.stages)
        return dataclasses.replace(self, stages=tuple(stages))

    def with_block(self, stage: int, position: int, kind: str) -> Architecture:
        """The same network with another kind of block at one position."""
        blocks = list(self.stages[stage].blocks)
        blocks[position] = dataclasses.replace(blocks[position], kind=kind)
        return self._with_stage(stage, Stage(self.widths[stage], tuple(blocks)))

    def with_width(self, stage: int, width: int) -> Architecture:
        """The same network with another width in one stage."""
        return self._with_stage(stage, Stage(width, self.stages[stage].blocks))

    def _with_stage(self, index: int, stage: Stage) -> Architecture:
        return dataclasses.replace(self, stages=(*self.stages[:index], stage, *self.stages[index + 1 :]))

    def to_json(self) -> dict[str, Any]:
        """A document that `from_json` turns back into an equal architecture."""
        return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Architecture:
        """The architecture a document describes.

        Raises:
            InputError: if it is of another format, lacks a value or has one too many.
        """
        fields = dict(document) if isinstance(document, dict) else {}
        if fields.pop("format", None) != FORMAT:
            raise InputError(f'architecture: expected a JSON object with "format": "{FORMAT}"')
        try:
            stages = tuple(
                Stage(stage["width"], tuple(Block(**block) for block in stage["blocks"]))
                for stage in fields.pop("stages")
            )
            attention = Attention(**fields.pop("attention"))
            return cls(stages, tuple(fields.pop("input_size")), attention=attention, **fields)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"architecture: a value is missing, unknown or of the wrong type: {error}"
            ) from None

    def __str__(self) -> str:
        marks = {"pool": "P", "attention": "A", "identity": "·"}
        drawn = " ".join(
            f"{s.width}:{''.join(marks.get(b.kind, b.kind[0].upper()) for b in s.blocks)}"
            for s in self.stages
        )
        return f"{drawn} @{self.input_size[0]}×{self.input_size[1]}"


def _change(
    have: Layout, want: Layout, width: int, grid: tuple[int, int], name: str
) -> list[tuple[str, Layer]]:
    if have == want:
        return []
    kind = "flatten" if want == "tokens" else "unflatten"
    return [(f"{name}.{kind}", Layer(kind, width, width, *grid))]


def _validate(architecture: Architecture) -> None:
    if len(architecture.stages) != 4:
        raise InputError(f"architecture: four stages are needed, {len(architecture.stages)} given")
    check_input_size(architecture.input_size)
    if architecture.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"architecture: unknown activation {architecture.activation!r}; known: {known}")
    shape = architecture.attention
    for name, value in (
        ("num_classes", architecture.num_classes),
        ("in_channels", architecture.in_channels),
        ("attention heads", shape.heads),
        ("attention key_dim", shape.key_dim),
        ("attention value_dim", shape.value_dim),
    ):
        if not _is_count(value):
            raise InputError(f"architecture: {name} must be a whole number from 1, not {value!r}")
    if not isinstance(architecture.distilled, bool):
        raise InputError(f"architecture: distilled is true or false, not {architecture.distilled!r}")
    for index, stage in enumerate(architecture.stages):
        if not _is_count(stage.width) or stage.width < 2 or (index == 0 and stage.width % 2):
            raise InputError(
                f"architecture: stage {index} cannot be {stage.width} wide (the first must be even)"
            )
        for block in stage.blocks:
            if block.kind not in BLOCKS:
                known = ", ".join(BLOCKS)
                raise InputError(
                    f"architecture: unknown block {block.kind!r} in stage {index}; known: {known}"
                )
            if not _is_count(block.expansion):
                raise InputError(f"architecture: stage {index} has a block of expansion {block.expansion}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_input_size(size: tuple[int, int]) -> None:
    """Refuse sizes that four stages cannot halve evenly.

    Raises:
        InputError: naming the padded size to use instead.
    """
    if any(isinstance(side, bool) or not isinstance(side, int) for side in size):
        raise InputError(f"input size {size!r}: give height and width in whole pixels")
    if len(size) != 2 or any(side < STRIDE or side % STRIDE for side in size):
        padded = "×".join(str(max(1, -(-side // STRIDE)) * STRIDE) for side in size)
        given = "×".join(str(side) for side in size)
        raise InputError(f"input size {given}: each side must be a multiple of {STRIDE}; pad to {padded}")


def uniform(
    widths: tuple[int, int, int, int], depths: tuple[int, int, int, int], attention_blocks: int = 1
) -> Architecture:
    """An architecture of pooling blocks whose last blocks of the last stage attend, as the paper's are."""
    kinds = [["pool"] * depth for depth in depths]
    kinds[3][depths[3] - attention_blocks :] = ["attention"] * attention_blocks
    stages = (
        Stage(width, tuple(Block(kind) for kind in row)) for width, row in zip(widths, kinds, strict=True)
    )
    return Architecture(tuple(stages))


PRESETS: dict[str, Architecture] = {
    "efficientformer_l1": uniform((48, 96, 224, 448), (3, 2, 6, 4), 1),
    "efficientformer_l3": uniform((64, 128, 320, 512), (4, 4, 12, 6), 4),
    "efficientformer_l7": uniform((96, 192, 384, 768), (6, 6, 18, 8), 8),
}
"""The paper's three networks [code]."""
