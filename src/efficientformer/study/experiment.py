"""What an experiment of the study is: a baseline and variants that differ from it in one thing."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from efficientformer.latency.subjects import Image, Subject, count_macs

Expect = Literal["faster", "slower", "no slower"]
"""How a variant compares with its baseline by the paper."""


@dataclass(frozen=True)
class Variant:
    """One way of doing it.

    Attributes:
        name: what it is, in words.
        build: makes the module, from `variants.py`.
        image: (channels, height, width) that it takes; for tokens (1, positions, channels).
        expect: against the baseline, by the paper; None where the paper makes no claim.
        paper: the paper's own figure for such a pair, if it has one.
        follows: what it tells, whatever comes out, if it is no choice for a design but there for comparison.
    """

    name: str
    build: functools.partial[nn.Module]
    image: Image
    expect: Expect | None = None
    paper: str = ""
    follows: str = ""

    @property
    def identity(self) -> str:
        """Equal for variants that build the same module: its function, arguments and code."""
        options = sorted((self.build.keywords or {}).items())
        return f"study {_name(self.build)}{self.build.args}{options} {_code()}"


@dataclass(frozen=True)
class Follows:
    """What follows for a design, by how a variant compares; {variant} and {baseline} are their names."""

    faster: str
    slower: str
    equal: str


@dataclass(frozen=True)
class Experiment:
    """A baseline and variants, timed in one interleaved run.

    Attributes:
        name: short, for the command line.
        observation: number of the paper's observation, 1 to 4.
        title: the question.
        about: what is held equal, and what is not.
        baseline: what the variants are compared with.
        variants: the others.
        follows: what to do with the answer.
    """

    name: str
    observation: int
    title: str
    about: str
    baseline: Variant
    variants: tuple[Variant, ...]
    follows: Follows

    @property
    def all(self) -> tuple[Variant, ...]:
        """The baseline, then the others."""
        return (self.baseline, *self.variants)


def subject_of(variant: Variant) -> Subject:
    """A variant as something to be exported and timed; it is built on the export alone."""
    params, macs = _counted(variant)
    return Subject(
        f"study-{_name(variant.build)}", variant.image, params, macs, variant.identity, variant.build, {}
    )


@functools.cache
def _counted(variant: Variant) -> tuple[int, int]:
    """Parameters and multiply-accumulates, counted on shapes without numbers."""
    with torch.device("meta"):
        module = variant.build()
        params = sum(parameter.numel() for parameter in module.parameters())
        return params, count_macs(module, variant.image)


Build = Callable[..., nn.Module]


def way(
    name: str,
    image: Image,
    build: Build,
    *arguments: int | str,
    expect: Expect | None = None,
    paper: str = "",
    follows: str = "",
    **options: int | str | bool,
) -> Variant:
    """A variant in one line: `build(*arguments, **options)` makes it."""
    return Variant(name, functools.partial(build, *arguments, **options), image, expect, paper, follows)


def _name(build: functools.partial[nn.Module]) -> str:
    return getattr(build.func, "__name__", "variant")


@functools.cache
def _code() -> str:
    """A digest of the code that makes the variants."""
    source = Path(__file__).with_name("variants.py").read_bytes()
    return hashlib.sha256(source).hexdigest()[:12]
