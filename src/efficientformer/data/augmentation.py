"""What training does to an image before the network sees it, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Augmentation:
    """What training does to an image; the values here are those of the short recipe.

    Attributes:
        min_area: the smallest share of the image's area that a random crop keeps (ImageNet's habit: 0.08).
        flip: left-right flips, one image in two.
        interpolation: of the crops (paper: bicubic).
        rand_augment: RandAugment in timm's spelling, empty for none (paper: rand-m9-mstd0.5-inc1).
        erase: probability that a rectangle of noise replaces part of an image (paper: 0.25).
        mixup: alpha of mixup's Beta distribution, 0 for none (paper: 0.8).
        cutmix: the same of cutmix (paper: 1.0).
        mix_switch: probability of cutmix where both are on (paper: 0.5).
        repeats: how often an image comes in an epoch, each time augmented anew; the epoch stays as long
            (repeated augmentation, Hoffer et al., CVPR 2020; paper: 3).
    """

    min_area: float = 0.35
    flip: bool = True
    interpolation: Interpolation = "bilinear"
    rand_augment: str = ""
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_switch: float = 0.5
    repeats: int = 1
