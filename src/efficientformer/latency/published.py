"""Latencies that others published, each with its device and source; never mixed with ours.

Figures are facts taken from tables; a figure quoted from memory, not read again in its source, is marked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_PAPER = "EfficientFormer, arXiv 2206.01191, Table 1"
_TIMM = "timm's benchmark tables, batch 1"
_PHONE = "authors' tables, collected in 2026"


@dataclass(frozen=True)
class Published:
    """One published latency.

    Attributes:
        model: the name `measure` knows it by.
        ms: milliseconds for one image of 224×224 pixels, unless the source says otherwise.
        device: what it was taken on.
        source: who published it.
        certain: whether the figure was read in the source; otherwise it was quoted from memory.
    """

    model: str
    ms: float
    device: str
    source: str
    certain: bool = True


def _row(model: str, figures: str) -> tuple[Published, ...]:
    """`phone / i9 / i7` in milliseconds, a dash for none."""
    devices = (
        ("iPhone 13 (Neural Engine)", _PHONE),
        ("Intel i9 CPU", _TIMM),
        ("Intel i7 CPU", _TIMM),
    )
    given = zip(figures.split("/"), devices, strict=True)
    return tuple(
        Published(model, float(text), device, source)
        for text, (device, source) in given
        if text.strip() != "–"
    )


def _paper(model: str, ms: float, *, certain: bool) -> Published:
    return Published(model, ms, "iPhone 12 (Neural Engine, Core ML)", _PAPER, certain)


FIGURES: tuple[Published, ...] = (
    *_row("timm/mobilenetv2_100", "0.73 / 5.3 / 6.6"),
    *_row("timm/mobilenetv2_140", "1.02 / 6.1 / 9.1"),
    *_row("timm/mobilenetv4_conv_small", "0.60 / 4.0 / 4.0"),
    *_row("timm/efficientnet_b0", "0.89 / 9.9 / 10.7"),
    *_row("timm/resnet50", "– / 14.9 / –"),
    *_row("timm/levit_256", "– / 7.3 / 12.8"),
    *_row("timm/repvit_m1_1", "1.04 / 14.6 / 17.8"),
    *_row("efficientformerv2_s1", "1.02 / 14.4 / 15.7"),
    *_row("efficientformer_l1", "– / 9.6 / 16.3"),
    *_row("efficientformer_l3", "– / 16.8 / 36.7"),
    *_row("efficientformer_l7", "– / 32.0 / 86.3"),
    _paper("efficientformer_l1", 1.6, certain=True),
    _paper("efficientformer_l3", 3.0, certain=True),
    _paper("efficientformer_l7", 7.0, certain=True),
    _paper("timm/levit_256", 11.9, certain=True),
    _paper("timm/deit_small_patch16_224", 11.8, certain=True),
    _paper("timm/mobilenetv2_140", 1.6, certain=False),
    _paper("timm/resnet50", 3.0, certain=False),
    _paper("timm/efficientnet_b0", 2.7, certain=False),
    _paper("timm/efficientnet_b5", 23.0, certain=False),
    _paper("timm/deit_tiny_patch16_224", 9.2, certain=False),
    _paper("timm/poolformer_s24", 6.2, certain=False),
    _paper("timm/mobilevit_xs", 7.3, certain=False),
)


def published_beside(models: Iterable[str]) -> list[Published]:
    """The figures of some models, in the models' order."""
    return [one for model in dict.fromkeys(models) for one in FIGURES if one.model == model]
