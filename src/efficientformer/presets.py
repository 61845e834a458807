"""The published networks: EfficientFormer L1, L3, L7, and EfficientFormerV2 S0, S1, S2, L."""

from __future__ import annotations

from collections.abc import Sequence

from efficientformer.architecture import Architecture, Block, Stage

Four = tuple[int, int, int, int]


def pooling(widths: Four, depths: Four, attention_blocks: int = 1) -> Architecture:
    """An architecture of pooling blocks whose last blocks of the last stage attend, as the first paper's."""
    kinds = [["pool"] * depth for depth in depths]
    kinds[3][depths[3] - attention_blocks :] = ["attention"] * attention_blocks
    stages = (
        Stage(width, tuple(Block(kind) for kind in row)) for width, row in zip(widths, kinds, strict=True)
    )
    return Architecture(tuple(stages))


def unified(widths: Four, expansions: Sequence[Sequence[int]], attention_blocks: int) -> Architecture:
    """An architecture of unified FFN blocks, as EfficientFormerV2's (Li et al., ICCV 2023) [code].

    Args:
        widths: channels of each stage.
        expansions: of each block of each stage.
        attention_blocks: how many of the last blocks attend, in stage 3 (at half its resolution) and in 4.
    """
    attending = ("", "", "attention2d_strided", "attention2d")
    stages = []
    for index, (width, row) in enumerate(zip(widths, expansions, strict=True)):
        first = len(row) - attention_blocks if attending[index] else len(row)
        kinds = ["ffn"] * first + [attending[index]] * (len(row) - first)
        blocks = tuple(Block(kind, expansion) for kind, expansion in zip(kinds, row, strict=True))
        stages.append(Stage(width, blocks, "embed_attention" if index == 3 else "embed"))
    return Architecture(tuple(stages), stem_activation="gelu", head="head2d")


PRESETS: dict[str, Architecture] = {
    "efficientformer_l1": pooling((48, 96, 224, 448), (3, 2, 6, 4), 1),
    "efficientformer_l3": pooling((64, 128, 320, 512), (4, 4, 12, 6), 4),
    "efficientformer_l7": pooling((96, 192, 384, 768), (6, 6, 18, 8), 8),
    "efficientformerv2_s0": unified(
        (32, 48, 96, 176), ([4] * 2, [4] * 2, [4, 3, 3, 3, 4, 4], [4, 3, 3, 4]), 2
    ),
    "efficientformerv2_s1": unified(
        (32, 48, 120, 224), ([4] * 3, [4] * 3, [4, 4, 3, 3, 3, 3, 4, 4, 4], [4, 4, 3, 3, 4, 4]), 2
    ),
    "efficientformerv2_s2": unified(
        (32, 64, 144, 288),
        ([4] * 4, [4] * 4, [4, 4, *[3] * 6, 4, 4, 4, 4], [4, 4, 3, 3, 3, 3, 4, 4]),
        4,
    ),
    "efficientformerv2_l": unified(
        (40, 80, 192, 384),
        ([4] * 5, [4] * 5, [4, 4, 4, 4, *[3] * 7, 4, 4, 4, 4], [4, 4, 4, 3, 3, 3, 3, 4, 4, 4]),
        6,
    ),
}
"""The networks of the two papers [code]."""
