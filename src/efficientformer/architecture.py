"""What a network is, as a value: `Architecture`.

Pure data: no torch here. The model builder, the latency table, the search, checkpoints and export all
take an `Architecture`, and nothing else describes a network. Read this file first, then `layers.py` (what
it is made of, and what each piece costs) and `presets.py` (the published networks).

    python -c "import efficientformer as ef; print(*ef.PRESETS['efficientformer_l1'].layers(), sep='\\n')"

Facts with `[code]` were read in the authors' public code (which made the published weights), where the
paper's text differs: Li et al., "EfficientFormer: Vision Transformers at MobileNet Speed", NeurIPS 2022.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from efficientformer.errors import InputError
from efficientformer.layers import BLOCKS, EMBEDS, HEADS, KINDS, MAX_POSITIONS, STEMS, Attention, Layer, Macs

FORMAT = "efficientformer.architecture/1"
STRIDE = 32
BLOCK_ATTENTION, EMBED_ATTENTION = Attention(8, 32, 128), Attention(8, 16, 64)  # [code]
ACTIVATIONS = ("gelu", "relu", "hardswish", "silu", "gelu_tanh")


@dataclass(frozen=True)
class Block:
    """One position of a stage.

    `pool` is the paper's MB4D (pooling token mixer, map layout), `attention` its MB3D (multi-head
    self-attention, token layout), `identity` the position left out: it has no parameters and costs nothing.
    EfficientFormerV2's: `ffn` (unified FFN: 1×1, depthwise 3×3, 1×1), `attention2d` (attention on the map,
    then such an FFN) and `attention2d_strided` (the same at half the resolution).
    """

    kind: str
    expansion: int = 4


@dataclass(frozen=True)
class Stage:
    """Blocks of one width at one resolution.

    Attributes:
        width: channels.
        blocks: its positions in order.
        embed: the kind of down-sampling into it, `embed` or V2's `embed_attention`; the first has none.
    """

    width: int
    blocks: tuple[Block, ...]
    embed: str = "embed"


@dataclass(frozen=True)
class Architecture:
    """The whole description of one network: frozen, hashable, JSON in and out.

    Attributes:
        stages: four of them, at strides 4, 8, 16 and 32.
        input_size: (height, width) in pixels, each divisible by 32.
        num_classes: outputs of each classifier; 0 for none, the output is then the features.
        in_channels: channels of the image.
        activation: of the MLPs.
        distilled: a second classifier for the teacher's labels; the two are averaged at inference.
        attention: heads and dimensions of every block that attends.
        embed_attention: the same of every down-sampling that attends.
        stem_activation: the stem's [code: ReLU, V2 GELU].
        stem: `stem` (two 3×3 convolutions of stride 2), or `stem_patch` (one of 4×4 and stride 4).
        head: `head` (LayerNorm over tokens), or V2's `head2d` (batch norm over the map).
        global_pool: `avg`, or empty for outputs at every position.

    Raises:
        InputError: on construction, if the values do not describe a network.
    """

    stages: tuple[Stage, ...]
    input_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000
    in_channels: int = 3
    activation: str = "gelu"
    distilled: bool = True
    attention: Attention = BLOCK_ATTENTION
    embed_attention: Attention = EMBED_ATTENTION
    stem_activation: str = "relu"
    stem: str = "stem"
    head: str = "head"
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def params(self) -> int:
        """Learned parameters, both classifiers included."""
        return sum(layer.params for layer in self.layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image at `input_size`."""
        return self.macs_by_operator.total

    @property
    def macs_by_operator(self) -> Macs:
        """The same, of convolutions, linears and attention's products apart."""
        return sum((layer.macs_by_operator for layer in self.layers()), Macs())

    @cached_property
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
        """Its layers in order of execution."""
        return tuple(layer for _, layer in self._layers)

    def named_layers(self) -> list[tuple[str, Layer]]:
        """The same with names: `stem`, `stages.2.embed`, `stages.2.blocks.1`, `head`, …"""
        return list(self._layers)

    @cached_property
    def _layers(self) -> tuple[tuple[str, Layer], ...]:
        stem = Layer(
            self.stem, self.in_channels, self.widths[0], *self.input_size, activation=self.stem_activation
        )
        named = [("stem", stem)]
        for index, stage in enumerate(self.stages):
            if index:
                named.append((f"stages.{index}.embed", self._embed_layer(index)))
            named += [
                (f"stages.{index}.blocks.{position}", self._block_layer(index, block))
                for position, block in enumerate(stage.blocks)
                if block.kind != "identity"
            ]
        head = Layer(self.head, self.widths[-1], self.num_classes, *self.grid(3), heads=1 + self.distilled)
        return (*named, ("head", head))

    def _embed_layer(self, stage: int) -> Layer:
        kind, (above, own) = self.stages[stage].embed, self.widths[stage - 1 : stage + 1]
        plain = Layer(kind, above, own, *self.grid(stage - 1))
        if not KINDS[kind].key_stride:
            return plain
        return dataclasses.replace(plain, activation=self.activation, attention=self.embed_attention)

    def _block_layer(self, stage: int, block: Block) -> Layer:
        width = self.widths[stage]
        attention = self.attention if KINDS[block.kind].key_stride else None
        return Layer(block.kind, width, width, *self.grid(stage), block.expansion, self.activation, attention)

    def block_layer(self, stage: int, position: int, kind: str | None = None) -> Layer:
        """The layer at a position, as it is or as another kind; no layer stands for an identity."""
        block = self.stages[stage].blocks[position]
        return self._block_layer(stage, dataclasses.replace(block, kind=kind or block.kind))

    def compact(self) -> Architecture:
        """The same network without its identities."""
        stages = (
            dataclasses.replace(s, blocks=tuple(b for b in s.blocks if b.kind != "identity"))
            for s in self.stages
        )
        return dataclasses.replace(self, stages=tuple(stages))

    def with_block(self, stage: int, position: int, kind: str) -> Architecture:
        """The same network with another kind of block at one position."""
        blocks = list(self.stages[stage].blocks)
        blocks[position] = dataclasses.replace(blocks[position], kind=kind)
        return self._with_stage(stage, dataclasses.replace(self.stages[stage], blocks=tuple(blocks)))

    def with_width(self, stage: int, width: int) -> Architecture:
        """The same network with another width in one stage."""
        return self._with_stage(stage, dataclasses.replace(self.stages[stage], width=width))

    def with_expansion(self, stage: int, position: int, expansion: int) -> Architecture:
        """The same network with another hidden width of one block's MLP, as a multiple of the stage's."""
        blocks = list(self.stages[stage].blocks)
        blocks[position] = dataclasses.replace(blocks[position], expansion=expansion)
        return self._with_stage(stage, dataclasses.replace(self.stages[stage], blocks=tuple(blocks)))

    def with_input_size(self, side: int) -> Architecture:
        """The same network for square images of another side, in pixels."""
        return dataclasses.replace(self, input_size=(side, side))

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
                Stage(**stage | {"blocks": tuple(Block(**block) for block in stage["blocks"])})
                for stage in fields.pop("stages")
            )
            fields["attention"] = Attention(**fields["attention"])
            if "embed_attention" in fields:  # files of version 0.1 lack it
                fields["embed_attention"] = Attention(**fields["embed_attention"])
            return cls(stages, tuple(fields.pop("input_size")), **fields)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"architecture: a value is missing, unknown or of the wrong type: {error}"
            ) from None

    def __str__(self) -> str:
        """Widths and blocks by stage, the input size; a block with its expansion where that is not 4."""
        drawn = " ".join(f"{s.width}:{''.join(map(_mark, s.blocks))}" for s in self.stages)
        stem = "" if self.stem == "stem" else f"{self.stem} "
        return f"{stem}{drawn} @{self.input_size[0]}×{self.input_size[1]}"


def _mark(block: Block) -> str:
    narrowed = block.kind != "identity" and block.expansion != Block.expansion
    return KINDS[block.kind].mark + (str(block.expansion) if narrowed else "")


def _validate(architecture: Architecture) -> None:
    if len(architecture.stages) != 4:
        raise InputError(f"architecture: four stages are needed, {len(architecture.stages)} given")
    check_input_size(architecture.input_size)
    for name, value, known in (
        ("activation", architecture.activation, ACTIVATIONS),
        ("stem activation", architecture.stem_activation, ACTIVATIONS),
        ("stem", architecture.stem, STEMS),
        ("head", architecture.head, HEADS),
        ("global_pool", architecture.global_pool, ("avg", "")),
    ):
        _known(name, value, known)
    for shape in (architecture.attention, architecture.embed_attention):
        for name in ("heads", "key_dim", "value_dim"):
            _count(f"attention {name}", getattr(shape, name))
    _count("num_classes", architecture.num_classes, least=0)
    _count("in_channels", architecture.in_channels)
    if not isinstance(architecture.distilled, bool):
        raise InputError(f"architecture: distilled is true or false, not {architecture.distilled!r}")
    for index, stage in enumerate(architecture.stages):
        _validate_stage(index, stage, architecture.grid(index))
    for layer in architecture.layers():
        height, width = layer.bias_grid or (0, 0)
        if height * width > MAX_POSITIONS:
            raise InputError(
                f"architecture: {layer} would attend over {height * width} positions; {MAX_POSITIONS} fit"
            )


def _validate_stage(index: int, stage: Stage, grid: tuple[int, int]) -> None:
    if not _is_count(stage.width) or stage.width < 2 or (index == 0 and stage.width % 2):
        raise InputError(f"architecture: stage {index} cannot be {stage.width} wide (the first must be even)")
    _known("embed", stage.embed, EMBEDS, f" in stage {index}")
    for block in stage.blocks:
        _known("block", block.kind, BLOCKS, f" in stage {index}")
        if not _is_count(block.expansion):
            raise InputError(f"architecture: stage {index} has a block of expansion {block.expansion}")
        if KINDS[block.kind].key_stride == 2 and any(side % 2 for side in grid):
            raise InputError(
                f"architecture: {block.kind} halves its grid, and stage {index} has {grid[0]}×{grid[1]}; "
                "use attention2d there"
            )


def _known(name: str, value: str, known: tuple[str, ...], where: str = "") -> None:
    if value not in known:
        choices = ", ".join(choice if choice else repr(choice) for choice in known)
        raise InputError(f"architecture: unknown {name} {value!r}{where}; known: {choices}")


def _count(name: str, value: object, least: int = 1) -> None:
    if not _is_count(value, least):
        raise InputError(f"architecture: {name} must be a whole number from {least}, not {value!r}")


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_input_size(size: tuple[int, int]) -> None:
    """Refuse sizes that four stages cannot halve evenly.

    Raises:
        InputError: naming the padded size to use instead.
    """
    if not isinstance(size, tuple) or any(
        isinstance(side, bool) or not isinstance(side, int) for side in size
    ):
        raise InputError(f"input size {size!r}: give (height, width) in whole pixels")
    if len(size) != 2 or any(side < STRIDE or side % STRIDE for side in size):
        padded = "×".join(str(max(1, -(-side // STRIDE)) * STRIDE) for side in size)
        given = "×".join(str(side) for side in size)
        raise InputError(f"input size {given}: each side must be a multiple of {STRIDE}; pad to {padded}")
