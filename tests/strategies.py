"""Random small networks, for laws that hold of every architecture."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from efficientformer import Architecture, Attention, Block, EfficientFormer, Stage
from efficientformer.architecture import ACTIVATIONS
from efficientformer.layers import BLOCKS, EMBEDS, HEADS, KINDS

SIZES = ((32, 32), (64, 64), (32, 64), (96, 32))


def _kinds(stage: int, size: tuple[int, int], kinds: tuple[str, ...]) -> list[str]:
    """The kinds that a stage's grid allows."""
    odd = any(side // (4 * 2**stage) % 2 for side in size)
    return [kind for kind in kinds if not (odd and KINDS[kind].key_stride == 2)]


@st.composite
def architectures(
    draw: st.DrawFn, *, kinds: tuple[str, ...] = BLOCKS, sizes: tuple[tuple[int, int], ...] = SIZES
) -> Architecture:
    """A valid architecture of few and narrow blocks, their kinds mixed freely."""
    size = draw(st.sampled_from(sizes))
    rows = [
        draw(
            st.lists(
                st.builds(Block, st.sampled_from(_kinds(stage, size, kinds)), st.integers(1, 3)), max_size=3
            )
        )
        for stage in range(4)
    ]
    widths = (draw(st.sampled_from((2, 6, 8))), *draw(st.tuples(*[st.integers(2, 9)] * 3)))
    embeds = ("embed", *draw(st.tuples(*[st.sampled_from(EMBEDS)] * 3)))
    shapes = st.builds(Attention, st.integers(1, 2), st.integers(1, 5), st.integers(1, 6))
    return Architecture(
        tuple(
            Stage(width, tuple(row), embed) for width, row, embed in zip(widths, rows, embeds, strict=True)
        ),
        input_size=size,
        num_classes=draw(st.integers(1, 5)),
        in_channels=draw(st.integers(1, 4)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        distilled=draw(st.booleans()),
        attention=draw(shapes),
        embed_attention=draw(shapes),
        stem_activation=draw(st.sampled_from(ACTIVATIONS)),
        head=draw(st.sampled_from(HEADS)),
    )


def tiny(
    *, input_size: tuple[int, int] = (32, 32), num_classes: int = 3, distilled: bool = True
) -> Architecture:
    """One fixed small architecture with every kind of block and both changes of layout."""
    rows = (["pool"], ["identity", "pool"], ["attention", "pool"], ["pool", "attention"])
    stages = (
        Stage(width, tuple(Block(kind, 2) for kind in row))
        for width, row in zip((8, 8, 12, 16), rows, strict=True)
    )
    return Architecture(
        tuple(stages),
        input_size=input_size,
        num_classes=num_classes,
        distilled=distilled,
        attention=Attention(heads=2, key_dim=4, value_dim=8),
    )


def randomised(architecture: Architecture, seed: int = 0) -> EfficientFormer:
    """The network with no weight, norm, LayerScale or bias at a value that hides a mistake (0 or 1)."""
    network = EfficientFormer(architecture).eval()
    randomise(network, seed)
    return network


@torch.no_grad()
def randomise(network: torch.nn.Module, seed: int = 0) -> None:
    """Draw every parameter and every running statistic anew, in place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        spread = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.normal_(0.3 * (parameter.ndim == 1), spread, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.5, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)


def relative_difference(given: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((given - wanted).abs().max() / wanted.abs().max())
