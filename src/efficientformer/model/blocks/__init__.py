"""The modules of each kind of layer, one file a kind: the form that is trained, and the deployed one.

A new kind of block is a file here, an entry in `MODULES` and its counts in `efficientformer/layers.py`.
Shapes: `map` is (B, C, H, W), `tokens` is (B, N, C) with N = H·W. Facts marked [code] were read in the
authors' public code.
"""

from __future__ import annotations

from collections.abc import Callable

from efficientformer.errors import InputError
from efficientformer.layers import KINDS, Layer
from efficientformer.model.blocks.attention import AttentionBlock
from efficientformer.model.blocks.attention2d import Attention2dBlock
from efficientformer.model.blocks.base import LayerModule
from efficientformer.model.blocks.embed_attention import EmbedAttention
from efficientformer.model.blocks.ffn import FfnBlock
from efficientformer.model.blocks.head import Head, Head2d
from efficientformer.model.blocks.pool import PoolBlock
from efficientformer.model.blocks.stem import Embed, PatchStem, Stem

MODULES: dict[str, Callable[..., LayerModule]] = {
    "stem": Stem,
    "stem_patch": PatchStem,
    "embed": Embed,
    "embed_attention": EmbedAttention,
    "head": Head,
    "head2d": Head2d,
    "pool": PoolBlock,
    "attention": AttentionBlock,
    "ffn": FfnBlock,
    "attention2d": Attention2dBlock,
    "attention2d_strided": Attention2dBlock,
}
"""Every kind of layer that is built; blocks also take LayerScale's start."""


def build_layer(layer: Layer, layer_scale_init: float = 1e-5) -> LayerModule:
    """The module of a layer, newly initialised from torch's global generator.

    Args:
        layer: what to build; its `kind` says which module.
        layer_scale_init: LayerScale's start, 1e-5 in the authors' code; larger ones learn sooner.

    Raises:
        InputError: for a kind that has no module.
    """
    if layer.kind not in MODULES:
        raise InputError(f"no module is known for a layer of kind {layer.kind!r}")
    if KINDS[layer.kind].role == "block":
        return MODULES[layer.kind](layer, layer_scale_init)
    return MODULES[layer.kind](layer)
