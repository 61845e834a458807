"""RandAugment (Cubuk et al., 2020) of whole batches on a device: the operations and magnitudes of timm.

What befalls an image follows from (seed, its number) alone. It is drawn on the CPU, so no one waits for the
device; then images that drew operations of one kind are treated together, in one call.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor

from efficientformer.data import operations
from efficientformer.data.augmentation import Interpolation
from efficientformer.data.uniforms import RAND_AUGMENT, uniforms
from efficientformer.errors import InputError

OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
FILL = tuple(min(255, round(255 * share)) for share in IMAGENET_DEFAULT_MEAN)
"""The colour beyond the edges of turned and moved images: ImageNet's mean, as timm's transforms have it."""
_PLACE = {name: place for place, name in enumerate(OPERATIONS)}
_GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_POINTWISE = ("Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness")
_PARTS: dict[str, tuple[str, Callable[[str], float], float, float]] = {
    "m": ("magnitude", int, 0, math.inf),
    "n": ("layers", int, 1, math.inf),
    "p": ("probability", float, 0, 1),
    "mstd": ("deviation", float, 0, math.inf),
    "mmax": ("bound", int, 1, math.inf),
    "inc": ("increasing", int, 0, 1),
}


@dataclass(frozen=True)
class RandAugment:
    """RandAugment; called with a batch.

    Attributes:
        magnitude: how strong operations are, on timm's scale of 0 to 10.
        layers: operations drawn for an image, one after the other.
        probability: that a drawn operation is carried out.
        deviation: of a normal distribution around `magnitude`; above 100, magnitudes are uniform up to it.
        bound: magnitudes are cut off there.
        increasing: 1 if all operations are to grow stronger with the magnitude.
        interpolation: of geometric operations.
    """

    magnitude: float = 10
    layers: int = 2
    probability: float = 0.5
    deviation: float = 0.0
    bound: float = 10
    increasing: int = 0
    interpolation: Interpolation = "bilinear"

    def __call__(self, x: Tensor, seed: int, numbers: np.ndarray) -> Tensor:
        """Augment a batch, in place.

        Args:
            x: float32 (b, 3, side, side) of whole numbers 0 to 255, on any device.
            seed: of the training.
            numbers: int64 (b,), of the drawn images.
        """
        for drawn, arguments in zip(*self.draws(seed, numbers), strict=True):
            for names, function in self._kinds():
                rows = np.flatnonzero(np.isin(drawn, [_PLACE[name] for name in names]))
                if len(rows):
                    there = on_device(rows, x.device)
                    part = function(x.index_select(0, there), drawn[rows], arguments[rows])
                    x.index_copy_(0, there, part)
        return x

    def draws(self, seed: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What befalls images: places in `OPERATIONS` (-1: nothing) and arguments, (layers, n) each."""
        chance = uniforms(seed, RAND_AUGMENT, numbers, 5 * self.layers).reshape(self.layers, 5, -1)
        which, whether, level, angle, sign = (np.ascontiguousarray(one) for one in chance.swapaxes(0, 1))
        drawn = (which * len(OPERATIONS)).astype(np.int64)
        signs = np.where(sign < 0.5, 1.0, -1.0)
        arguments = self.arguments(self._levels(level, angle), signs)
        chosen = np.take_along_axis(arguments, drawn[None], axis=0)[0]
        return np.where(whether < self.probability, drawn, -1), chosen

    def arguments(self, level: np.ndarray, sign: np.ndarray) -> np.ndarray:
        """What each operation would make of levels and signs (n,): (operations, n).

        Posterize keeps at least one bit. At some levels timm asks Pillow for none, which new Pillows refuse
        and old ones answered with a black image.
        """
        share = level / 10
        away = np.maximum(0.1, 1 + sign * share * 0.9)
        factor = away if self.increasing else share * 1.8 + 0.1
        bits, below = np.trunc(share * 4), np.minimum(256, np.trunc(share * 256))
        known = {
            "Rotate": sign * share * 30,
            "Posterize": np.maximum(1, 4 - bits if self.increasing else bits),
            "Solarize": 256 - below if self.increasing else below,
            "SolarizeAdd": np.minimum(128, np.trunc(share * 110)),
            **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), factor),
            **dict.fromkeys(("ShearX", "ShearY"), sign * share * 0.3),
            **dict.fromkeys(("TranslateXRel", "TranslateYRel"), sign * share * 0.45),
        }
        return np.stack([known.get(name, np.zeros_like(share)) for name in OPERATIONS])

    def _levels(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Magnitudes from uniform draws; normal ones by Box and Muller's method."""
        if self.deviation > 100:
            return np.minimum(first * self.magnitude, self.bound)
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
        return np.clip(self.magnitude + self.deviation * normal, 0, self.bound)

    def _kinds(self) -> list[tuple[tuple[str, ...], Callable[[Tensor, np.ndarray, np.ndarray], Tensor]]]:
        """Operations that are carried out together, and how: of (m, 3, side, side), places and arguments."""
        return [
            (("AutoContrast",), lambda x, _drawn, _arguments: operations.autocontrast(x)),
            (("Equalize",), lambda x, _drawn, _arguments: operations.equalize(x)),
            (("Color",), lambda x, _, factor: operations.color(x, _factors(factor, x))),
            (("Contrast",), lambda x, _, factor: operations.contrast(x, _factors(factor, x))),
            (("Sharpness",), lambda x, _, factor: operations.sharpness(x, _factors(factor, x))),
            (_POINTWISE, _pointwise),
            (_GEOMETRIC, self._geometric),
        ]

    def _geometric(self, x: Tensor, drawn: np.ndarray, arguments: np.ndarray) -> Tensor:
        theta = on_device(windows(drawn, arguments), x.device)
        return operations.warp(x, theta, _fill(x.device), self.interpolation)


def rand_augment(spec: str, interpolation: Interpolation = "bilinear") -> RandAugment:
    """RandAugment from timm's spelling, such as `rand-m9-mstd0.5-inc1`.

    Parts: m (magnitude), n (layers), p (probability), mstd (deviation), mmax (bound), inc (increasing).

    Raises:
        InputError: if a part is not known.
    """
    first, *parts = spec.split("-")
    given = dict(_part(part, spec) for part in parts)
    if first != "rand" or len(given) != len(parts):
        raise InputError(f"augmentation {spec!r}: write it like rand-m9-mstd0.5-inc1, each part once")
    return RandAugment(**given, interpolation=interpolation)  # ty: ignore[invalid-argument-type]


def windows(drawn: np.ndarray, arguments: np.ndarray) -> np.ndarray:
    """Affine windows (`operations.resample`) of geometric operations on square images: float32 (m, 2, 3)."""
    theta = np.tile(np.eye(2, 3), (len(drawn), 1, 1))
    turned, angle = drawn == _PLACE["Rotate"], np.radians(arguments)
    theta[turned, 0, 0] = theta[turned, 1, 1] = np.cos(angle[turned])
    theta[turned, 1, 0] = np.sin(angle[turned])
    theta[turned, 0, 1] = -theta[turned, 1, 0]
    for axis, shear, move in ((0, "ShearX", "TranslateXRel"), (1, "ShearY", "TranslateYRel")):
        sheared, moved = drawn == _PLACE[shear], drawn == _PLACE[move]
        theta[sheared, axis, 1 - axis] = theta[sheared, axis, 2] = arguments[sheared]  # the first row stays
        theta[moved, axis, 2] = 2 * arguments[moved]
    return theta.astype(np.float32)


def tables(drawn: np.ndarray, arguments: np.ndarray) -> np.ndarray:
    """Tables of operations that treat every value alike, whatever the image: float32 (m, 256)."""
    value, by = np.arange(256), arguments.astype(np.float32)[:, None]
    inverted = 255 - value
    bit = 2.0 ** np.clip(8 - by, 0, 8)
    known = {
        "Invert": inverted,
        "Posterize": np.floor(value / bit) * bit,
        "Solarize": np.where(value < by, value, inverted),
        "SolarizeAdd": np.where(value < 128, np.minimum(255, value + by), value),
        "Brightness": np.minimum(255, np.floor(value.astype(np.float32) * by)),
    }
    chosen = [(drawn == _PLACE[name])[:, None] for name in known]
    return np.select(chosen, list(known.values())).astype(np.float32)


def _pointwise(x: Tensor, drawn: np.ndarray, arguments: np.ndarray) -> Tensor:
    alike = on_device(tables(drawn, arguments), x.device)
    return operations.look_up(x, alike[:, None].expand(-1, 3, -1))


def _factors(arguments: np.ndarray, x: Tensor) -> Tensor:
    return on_device(arguments.astype(np.float32), x.device)[:, None, None, None]


@functools.lru_cache
def _fill(device: torch.device) -> Tensor:
    return torch.tensor(FILL, dtype=torch.float32, device=device)[:, None, None]


def _part(part: str, spec: str) -> tuple[str, float]:
    """A part of a specification as the attribute that it sets, and its value."""
    written = re.fullmatch(r"([a-z]+)(\d.*)", part)
    try:
        name, kind, least, most = _PARTS[written[1] if written else ""]
        value = kind(written[2]) if written else 0
    except (KeyError, ValueError):
        known = ", ".join(_PARTS)
        raise InputError(
            f"augmentation {spec!r}: part {part!r} is not known; give a number to {known}"
        ) from None
    if not least <= value <= most:
        raise InputError(f"augmentation {spec!r}: {part!r} must lie between {least:g} and {most:g}")
    return name, value


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Numbers brought to a device without waiting for what it is doing."""
    return torch.from_numpy(values).to(device, non_blocking=True)
