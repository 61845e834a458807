"""What one step of the supernet's training takes: the weights of its paths, and how wide it is."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efficientformer.architecture import Architecture
from efficientformer.search.space.search_space import SearchSpace
from efficientformer.search.supernet.near import Near

Noise = Literal["uniform", "gumbel", "none"]
Paths = Literal["soft", "sampled", "even", "near"]


@dataclass(frozen=True)
class Sampling:
    """How each step of the supernet's training chooses among paths and widths.

    Attributes:
        tau_start: τ of the softmax at first; it falls geometrically.
        tau_end: τ at last. A high τ mixes all paths; a low one lets a single path through.
        noise: added to α: the paper's text has uniform noise; `gumbel` draws −log(−log u).
        paths: `soft` mixes all paths (paper, Eq. 7); `sampled` runs the one with the greatest weight, α
            learning through that weight (as GDAS, Dong and Yang, CVPR 2019); `even` runs one at random, α
            does not learn (single-path one-shot, Guo et al., ECCV 2020); `near` runs a random network of a
            latency near a budget, narrowed as it is (`near.py`), α does not learn.
        elastic: widths and expansions are drawn too, of every width the first channels: the best ones come to
            lie first (as slimmable networks, Yu and Huang, ICCV 2019).
    """

    tau_start: float = 2.0
    tau_end: float = 0.2
    noise: Noise = "gumbel"
    paths: Paths = "soft"
    elastic: bool = False

    @property
    def teaches_alpha(self) -> bool:
        """Whether α learns, which importance is read from."""
        return self.paths in ("soft", "sampled")

    @property
    def narrows(self) -> bool:
        """Whether narrow widths are trained, so that of each the best channels come to lie first."""
        return self.elastic or self.paths == "near"

    def tau(self, share: float) -> float:
        """τ when this share of the training is done."""
        return self.tau_start * (self.tau_end / self.tau_start) ** share


@dataclass(frozen=True)
class Draw:
    """One step's choice.

    Attributes:
        weights: of each stage's paths: (positions, choices), the identity last.
        chosen: of each stage the path that each position takes alone; empty where all are mixed.
        frame: its stem, widths and expansions; the kinds of its blocks say nothing.
    """

    weights: Sequence[Tensor]
    chosen: tuple[tuple[int, ...], ...]
    frame: Architecture


def draw(
    space: SearchSpace,
    alphas: Sequence[Tensor],
    sampling: Sampling,
    step: int,
    share: float,
    seed: int,
    near: Near | None = None,
) -> Draw:
    """The choice of a training step; a function of (seed, step), α and `near`, the same in every process.

    Args:
        space: what can be searched.
        alphas: of each stage: (positions, choices).
        sampling: how to choose.
        step: counted from 0.
        share: of the training that is done.
        seed: of the training.
        near: draws the networks of `paths="near"`.

    Raises:
        ValueError: for `paths="near"` without it.
    """
    number = seed * 1_000_003 + step
    generator = torch.Generator().manual_seed(number)
    chance = random.Random(number)
    if sampling.paths == "near":
        if near is None:
            raise ValueError('paths="near" needs what draws networks near a budget')
        return _alone(space, near.draw(chance))
    frame = _frame(space, chance, step) if sampling.elastic else space.largest
    if len(space.every_stem) > 1:  # each as often: they share nothing
        frame = dataclasses.replace(frame, stem=chance.choice(space.every_stem))
    if sampling.paths == "even":
        even = [torch.rand(alpha.shape, generator=generator) for alpha in alphas]
        return Draw([torch.ones_like(one) for one in even], _chosen(even), frame)
    tau = sampling.tau(share)
    soft = [((alpha + noise_of(alpha, sampling.noise, generator)) / tau).softmax(-1) for alpha in alphas]
    if sampling.paths == "soft":
        return Draw(soft, (), frame)
    return Draw([one - one.detach() + 1 for one in soft], _chosen(soft), frame)


def _alone(space: SearchSpace, network: Architecture) -> Draw:
    """One network, run alone."""
    kinds = [[block.kind for block in stage.blocks] for stage in network.stages]
    paths = [space.paths(stage) for stage in range(len(kinds))]
    chosen = tuple(tuple(map(own.index, row)) for own, row in zip(paths, kinds, strict=True))
    ones = [torch.ones(len(row), len(own)) for own, row in zip(paths, kinds, strict=True)]
    return Draw(ones, chosen, network)


def noise_of(like: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Noise for each α, the same on every device."""
    if noise == "none":
        return torch.zeros_like(like)
    uniform = torch.rand(like.shape, generator=generator).to(like.device)
    if noise == "uniform":
        return uniform
    return -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()


def _chosen(weights: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(one.argmax(-1).tolist()) for one in weights)


def _frame(space: SearchSpace, generator: random.Random, step: int) -> Architecture:
    """Widths and expansions of a step: a quarter have the largest, an eighth the smallest, the others any."""

    def pick(choices: tuple[int, ...]) -> int:
        """Of choices from the largest to the smallest."""
        turn = step % 8
        return choices[0] if turn in (0, 4) else choices[-1] if turn == 2 else generator.choice(choices)

    stages = tuple(
        dataclasses.replace(
            one,
            width=pick(space.widths(stage)),
            blocks=tuple(
                dataclasses.replace(block, expansion=pick(space.expansions_of(stage, position)))
                for position, block in enumerate(one.blocks)
            ),
        )
        for stage, one in enumerate(space.largest.stages)
    )
    return dataclasses.replace(space.largest, stages=stages)
