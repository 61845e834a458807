"""The supernet: at every position a MetaPath that mixes its choices by Gumbel softmax (paper, §3.3, Eq. 7).

    x ← Σ_n softmax_n((α_n + ε_n) / τ) · path_n(x)

The paper draws ε from U(0, 1) and calls it Gumbel softmax. How each step chooses is `draws.py`.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from torch import Tensor, nn

from efficientformer.architecture import Architecture
from efficientformer.layers import KINDS, Layer
from efficientformer.model.blocks import build_layer
from efficientformer.model.blocks.layout import as_map, as_tokens
from efficientformer.search.space.search_space import SearchSpace
from efficientformer.search.supernet.draws import Draw, Sampling, draw
from efficientformer.search.supernet.narrowing import run_narrow
from efficientformer.search.supernet.near import Near


class Supernet(nn.Module):
    """The largest network of a space with every choice at every position.

    Args:
        space: what can be searched.
        layer_scale_init: LayerScale's start. The authors' 1e-5 suits 300 epochs; a short training
            needs blocks that matter from the start.
    """

    def __init__(self, space: SearchSpace, layer_scale_init: float = 0.1) -> None:
        super().__init__()
        self.space = space
        named = dict(space.largest.named_layers())
        self.stems = nn.ModuleDict(
            {kind: build_layer(dataclasses.replace(named["stem"], kind=kind)) for kind in space.every_stem}
        )
        self.embeds = nn.ModuleList(build_layer(named[f"stages.{stage}.embed"]) for stage in (1, 2, 3))
        self.positions = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        kind: build_layer(space.largest.block_layer(stage, position, kind), layer_scale_init)
                        for kind in space.paths(stage)[:-1]
                    }
                )
                for position in range(len(space.largest.stages[stage].blocks))
            )
            for stage in range(4)
        )
        self.head = build_layer(named["head"])
        self.alphas = nn.ParameterList(
            torch.zeros(len(one.blocks), len(space.paths(stage)))
            for stage, one in enumerate(space.largest.stages)
        )
        self._full = named
        self._draw = Draw([alpha.detach().softmax(-1) for alpha in self.alphas], (), space.largest)

    def part(self, name: str, kind: str) -> nn.Module:
        """The module of a layer of the space's networks, by name and kind."""
        match name.split("."):
            case ["stem"]:
                return self.stems[kind]
            case ["head"]:
                return self.head
            case ["stages", stage, "embed"]:
                return self.embeds[int(stage) - 1]
            case ["stages", stage, "blocks", position]:
                return self._choices(int(stage), int(position))[kind]
        raise ValueError(f"no layer is called {name}")

    def draw(self, step: int, share: float, sampling: Sampling, seed: int, near: Near | None = None) -> None:
        """Choose paths and widths of one training step; a function of (seed, step), near and α alone."""
        self._draw = draw(self.space, list(self.alphas), sampling, step, share, seed, near)

    def probabilities(self) -> list[Tensor]:
        """softmax(α) of each stage: (positions, choices), the identity last."""
        return [alpha.detach().softmax(-1) for alpha in self.alphas]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) → logits (B, classes), by the last draw."""
        frame = self._draw.frame
        layers = dict(frame.named_layers())
        x = self._run("stem", layers["stem"], x)
        for stage in range(4):
            if stage:
                name = f"stages.{stage}.embed"
                x = self._run(name, layers[name], x)
            for position in range(len(frame.stages[stage].blocks)):
                x = self._position(stage, position, frame, x)
        return self._run("head", layers["head"], as_tokens(x))

    def _position(self, stage: int, position: int, frame: Architecture, x: Tensor) -> Tensor:
        """A MetaPath: (B, C, H, W) → the same."""
        kinds, weights = self.space.paths(stage), self._draw.weights[stage][position].to(x.device)
        if self._draw.chosen:
            taken = self._draw.chosen[stage][position]
            x, weight = self._path(kinds[taken], stage, position, frame, x), weights[taken]
            return x * weight if weight.requires_grad else x  # it is 1, for α to learn by
        mixed = x * weights[-1]  # the identity
        for weight, kind in zip(weights[:-1], kinds[:-1], strict=True):
            mixed = mixed + weight * self._path(kind, stage, position, frame, x)
        return mixed

    def _path(self, kind: str, stage: int, position: int, frame: Architecture, x: Tensor) -> Tensor:
        """One choice of a position on (B, C, H, W), giving the same."""
        if kind == "identity":
            return x
        name, layer = f"stages.{stage}.blocks.{position}", frame.block_layer(stage, position, kind)
        if KINDS[kind].layout == "map":
            return self._run(name, layer, x)
        return as_map(self._run(name, layer, as_tokens(x)), frame.grid(stage))

    def _run(self, name: str, layer: Layer, x: Tensor) -> Tensor:
        module = self.part(name, layer.kind)
        whole = self._full.get(name)
        if whole and dataclasses.replace(whole, kind=layer.kind, attention=layer.attention) == layer:
            return module(x)
        return run_narrow(module, name, layer, x)

    def _choices(self, stage: int, position: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, cast(nn.ModuleList, self.positions[stage])[position])
