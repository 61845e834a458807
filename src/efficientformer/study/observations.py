"""The paper's four observations on why vision transformers are slow, with its figures and their source."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = (
    "Li et al., “EfficientFormer: Vision Transformers at MobileNet Speed”, NeurIPS 2022 (arXiv 2206.01191), "
    "section 3 and Fig. 2: iPhone 12, Core ML, means of 1000 runs; figures as second-hand texts of the paper "
    "give them"
)


@dataclass(frozen=True)
class Observation:
    """One of the paper's four.

    Attributes:
        number: 1 to 4.
        title: what it is about.
        claim: what the paper says.
        figures: the paper's own figures for it.
    """

    number: int
    title: str
    claim: str
    figures: str


OBSERVATIONS = (
    Observation(
        1,
        "Patch embedding",
        "A patch embedding with a large kernel and stride is a speed bottleneck; a stack of 3×3 convolutions "
        "is not.",
        "a stack of 3×3 stride-2 convolutions has 48 % lower latency.",
    ),
    Observation(
        2,
        "Layout and attention",
        "One consistent tensor layout matters: frequent reshapes are the bottleneck, attention itself need "
        "not be.",
        "LeViT-256 with its reshapes takes 11.9 ms for 1.1 GMAC; DeiT-S, attention in one layout, 11.8 ms "
        "for 4.5 GMAC.",
    ),
    Observation(
        3,
        "Norms",
        "Convolutions with batch norm are faster than linears with LayerNorm (or GroupNorm): at inference a "
        "batch norm folds away, the others do not.",
        "LayerNorm takes 10–20 % of a network’s latency.",
    ),
    Observation(
        4,
        "Activations",
        "What an activation costs depends on the hardware and its compiler; on the phone ReLU is faster than "
        "GELU, HardSwish far slower.",
        "LeViT-256 takes 11.9 ms with GELU, 44.5 ms with HardSwish; EfficientFormer-L3 3.0 ms with GELU, "
        "2.5 ms with ReLU, 32.4 ms with HardSwish.",
    ),
)
