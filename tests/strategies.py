"""Random small networks, for laws that hold of every architecture."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from efficientformer import Architecture, Attention, Block, EfficientFormer, Stage
from efficientformer.architecture import ACTIVATIONS, BLOCKS

SIZES = ((32, 32), (64, 64), (32, 64), (96, 32))


@st.composite
def architectures(
    draw: st.DrawFn, *, kinds: tuple[str, ...] = BLOCKS, sizes: tuple[tuple[int, int], ...] = SIZES
) -> Architecture:
    """A valid architecture of few and narrow blocks, their kinds mixed freely."""
    block = st.builds(Block, st.sampled_from(kinds), st.integers(1, 3))
    rows = [draw(st.lists(block, max_size=3)) for _ in range(4)]
    widths = (draw(st.sampled_from((2, 6, 8))), *draw(st.tuples(*[st.integers(2, 9)] * 3)))
    return Architecture(
        tuple(Stage(width, tuple(row)) for width, row in zip(widths, rows, strict=True)),
        input_size=draw(st.sampled_from(sizes)),
        num_classes=draw(st.integers(1, 5)),
        in_channels=draw(st.integers(1, 4)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        distilled=draw(st.booleans()),
        attention=Attention(draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 6))),
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
