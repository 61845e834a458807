"""The supernet: at every position a MetaPath that mixes its choices by Gumbel softmax (paper, §3.3, Eq. 7).

    x ← Σ_n softmax_n((α_n + ε_n) / τ) · path_n(x)

The paper draws ε from U(0, 1) and calls it Gumbel softmax; `noise="gumbel"` draws −log(−log u) instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from efficientformer.layers import KINDS
from efficientformer.model.blocks import Embed, Head, Stem, build_layer
from efficientformer.model.blocks.layout import as_map, as_tokens
from efficientformer.search.space import SearchSpace

Noise = Literal["uniform", "gumbel", "none"]


@dataclass(frozen=True)
class Temperature:
    """τ over the training, from `start` to `end` geometrically, and the noise.

    A high τ mixes all paths; a low one lets a single path through, so that each learns to stand alone.
    """

    start: float = 2.0
    end: float = 0.2
    noise: Noise = "gumbel"

    def at(self, share: float) -> float:
        """τ when this share of the training is done."""
        return self.start * (self.end / self.start) ** share


class MetaPath(nn.ModuleDict):
    """One position's choices: a block of each kind; the identity has no module."""

    def mix(self, x: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        """The weighted sum of all paths: (B, C, H, W) → the same; the identity's weight is the last."""
        mixed = x * weights[-1]
        for weight, (kind, block) in zip(weights[:-1], self.items(), strict=True):
            mixed = mixed + weight * run_on_map(block, x, kind, grid)
        return mixed


def run_on_map(block: nn.Module, x: Tensor, kind: str, grid: tuple[int, int]) -> Tensor:
    """A block of any layout on (B, C, H, W), giving the same."""
    if KINDS[kind].layout == "map":
        return block(x)
    return as_map(block(as_tokens(x)), grid)


class Supernet(nn.Module):
    """The largest network of a space with a MetaPath at every position.

    Args:
        space: what can be searched.
        layer_scale_init: LayerScale's start. The authors' 1e-5 suits 300 epochs; a short training
            needs blocks that matter from the start.
    """

    def __init__(self, space: SearchSpace, layer_scale_init: float = 0.1) -> None:
        super().__init__()
        self.space = space
        named = dict(space.largest.named_layers())
        self.stem = cast(Stem, build_layer(named["stem"]))
        self.embeds = nn.ModuleList(build_layer(named[f"stages.{stage}.embed"]) for stage in (1, 2, 3))
        self.positions = nn.ModuleList(
            nn.ModuleList(
                MetaPath(
                    {
                        kind: build_layer(space.largest.block_layer(stage, position, kind), layer_scale_init)
                        for kind in space.paths(stage)[:-1]
                    }
                )
                for position in range(len(space.largest.stages[stage].blocks))
            )
            for stage in range(4)
        )
        self.head = cast(Head, build_layer(named["head"]))
        self.alphas = nn.ParameterList(
            torch.zeros(len(self.stage(stage)), len(space.paths(stage))) for stage in range(4)
        )
        self._weights = [alpha.detach().softmax(-1) for alpha in self.alphas]

    def stage(self, index: int) -> list[MetaPath]:
        """The MetaPaths of a stage."""
        return [cast(MetaPath, path) for path in cast(nn.ModuleList, self.positions[index])]

    def embed(self, stage: int) -> Embed:
        """The embedding into a stage from 1 to 3."""
        return cast(Embed, self.embeds[stage - 1])

    def draw(self, step: int, share: float, temperature: Temperature, seed: int) -> None:
        """Choose the path weights of one training step; a function of (seed, step) and α alone."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        tau = temperature.at(share)
        self._weights = [
            ((alpha + _noise(alpha, temperature.noise, generator)) / tau).softmax(-1) for alpha in self.alphas
        ]

    def probabilities(self) -> list[Tensor]:
        """softmax(α) of each stage: (positions, choices), the identity last."""
        return [alpha.detach().softmax(-1) for alpha in self.alphas]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) → logits (B, classes), with the path weights last drawn."""
        x = self.stem(x)
        for index in range(4):
            if index:
                x = self.embed(index)(x)
            grid = self.space.largest.grid(index)
            for path, weights in zip(self.stage(index), self._weights[index], strict=True):
                x = path.mix(x, weights.to(x.device), grid)
        return self.head(as_tokens(x))


def _noise(like: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    if noise == "none":
        return torch.zeros_like(like)
    uniform = torch.rand(like.shape, generator=generator).to(like.device)  # the same on every device
    if noise == "uniform":
        return uniform
    return -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
