"""The deployed form: equal outputs, far fewer operations.

    deployed = efficientformer.fold(model)

Batch norm, LayerScale, LayerNorm's affine, the attention scale and the two heads melt into the convolutions
beside them (`blocks/`, each kind's own `fold`). Everything works on maps (B, C, H, W), attention too. Runs of
pooling blocks work on a rescaled stream: one multiplication less in each (`rescaled`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from efficientformer.layers import Layer
from efficientformer.model.blocks import melt
from efficientformer.model.blocks.pool import FoldedPoolBlock, WeightedPool, rescaled
from efficientformer.model.network import EfficientFormer, check_whole

LIMIT = 1e3  # a stream is rescaled by factors from 1/LIMIT to LIMIT; where γ needs more, blocks stay plain


def fold(network: EfficientFormer, *, rescale: bool = True) -> nn.Sequential:
    """A network's deployed form. The network itself is left alone.

    Args:
        network: of any architecture.
        rescale: let pooling blocks work on a rescaled stream. Leave it out where the stream's range matters,
            as for int8; a float16 network leaves it out by itself (cast before folding, not after).

    Returns:
        its layers in order, one child per layer of the architecture, in evaluation mode.
    """
    check_whole(network)
    own = next(network.parameters()).dtype
    source = copy.deepcopy(network).eval()
    if own in (torch.float16, torch.bfloat16):
        source = source.float()  # melted in float32, rounded once
    with torch.no_grad():
        layers = [(layer, module.fold()) for _, layer, module in source.named_modules_of_layers()]
        if rescale and own != torch.float16:
            layers = _rescale(layers)
    return nn.Sequential(*(module for _, module in layers)).to(own).eval().requires_grad_(False)


Folded = list[tuple[Layer, nn.Module]]


def _rescale(layers: Folded) -> Folded:
    for start, end in _pool_runs(layers):
        before, after = layers[start - 1], layers[end]
        blocks = [cast(FoldedPoolBlock, block) for _, block in layers[start:end]]
        keep = [cast(WeightedPool, block.mixer).keep.flatten() for block in blocks]
        if _is_embed(before):  # its outputs are divided so that the run ends on the true stream
            scale = 1 / torch.stack(keep).prod(0)
            before = before[0], melt.scale_outputs(cast(nn.Conv2d, before[1]), 1 / scale)
        elif _is_embed(after):  # it takes the rest in
            scale = torch.ones_like(keep[0])
        else:
            continue
        run, factors = _rescaled_run(blocks, scale)
        if not _within_limit([scale, *factors]):
            continue
        if not _is_embed(before):
            after = after[0], melt.scale_inputs(cast(nn.Conv2d, after[1]), factors[-1])
        kept = (layer for layer, _ in layers[start:end])
        layers[start - 1 : end + 1] = [before, *zip(kept, run, strict=True), after]
    return layers


def _rescaled_run(blocks: list[FoldedPoolBlock], scale: Tensor) -> tuple[list[nn.Module], list[Tensor]]:
    run: list[nn.Module] = []
    factors = []
    for block in blocks:
        changed, scale = rescaled(block, scale)
        run.append(changed)
        factors.append(scale)
    return run, factors


def _pool_runs(layers: Folded) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of each longest run of pooling blocks."""
    start = 0
    while start < len(layers):
        end = start
        while isinstance(layers[end][1], FoldedPoolBlock):
            end += 1
        if end > start:
            yield start, end
        start = end + 1


def _is_embed(layer: tuple[Layer, nn.Module]) -> bool:
    return layer[0].kind == "embed"  # one convolution


def _within_limit(factors: list[Tensor]) -> bool:
    sizes = torch.stack(factors).abs()
    if sizes.is_meta:  # shapes without numbers: fold as numbers of the usual size would be
        return True
    return bool(((sizes > 1 / LIMIT) & (sizes < LIMIT)).all())  # false for NaN as well
