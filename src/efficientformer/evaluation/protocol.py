"""How a picture becomes a network's input when it is scored: without it an accuracy says little."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision.transforms import Resize, functional

from efficientformer.data.decode import as_rgb, square
from efficientformer.errors import InputError

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest")
PAPER_SHARE, TIMM_SHARE = 0.875, 0.95  # of the resized short side, that the crop keeps
NAMED = ("paper", "timm", "full")
# Times as long as wide: what lies further out is cut before resizing, which would take gigabytes.
_STRIP = 200
_KNOWN = "paper, timm, full, run (what a run stored) or RESIZE:CROP[:INTERPOLATION], as 256:224:bicubic"


@dataclass(frozen=True)
class Protocol:
    """How pictures become inputs. It is stored with every accuracy.

    Attributes:
        name: what it is called: `paper`, `timm`, `full`, `run` or its own text.
        resize: pixels of the short side after resizing.
        crop: pixels of a side of the centre crop, the network's input.
        interpolation: one of `INTERPOLATIONS`.
        mean: of each channel, taken off.
        std: of each channel, divided by.
        square: our runs' way: a centre square of a picture is cut before it is resized, as their pictures are
            kept. Otherwise the short side is resized and the centre cut after, as timm and torchvision do.
        squash: no crop and no regard to the aspect: the whole picture is resized to a square.

    Raises:
        InputError: if no picture could be prepared so.
    """

    name: str
    resize: int
    crop: int
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    square: bool = False
    squash: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            wrong = f"cannot crop {self.crop} pixels from {self.resize}"
            raise InputError(f"protocol {self.name}: {wrong}; resize must be at least crop, both above zero")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise InputError(f"protocol {self.name}: interpolation {self.interpolation!r}; known: {known}")
        if self.square and (self.interpolation != "bicubic" or self.squash):
            raise InputError(f"protocol {self.name}: a run's squares are bicubic and not squashed")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(one > 0 for one in self.std):
            raise InputError(f"protocol {self.name}: mean and std are three numbers each, std above zero")

    @classmethod
    def parse(cls, text: str, side: int) -> Protocol:
        """A protocol by its name, or from RESIZE:CROP[:INTERPOLATION].

        Args:
            text: `paper` resizes so that the crop is 7/8 of it (256 to 224), `timm` 95 % (235 to 224), `full`
                resizes the whole picture.
            side: the network's input in pixels; a protocol that is written out must give the same.

        Raises:
            InputError: if there is no such protocol, or its crop is not the network's input.
        """
        if text == "paper":
            return cls(text, round(side / PAPER_SHARE), side)
        if text == "timm":
            return cls(text, math.floor(side / TIMM_SHARE), side)  # timm rounds down
        if text == "full":
            return cls(text, side, side, squash=True)
        if not (found := re.fullmatch(r"(\d{1,5}):(\d{1,5})(?::(\w+))?", text)):
            raise InputError(f"protocol {text!r} is not known; give {_KNOWN}")
        protocol = cls(text, int(found[1]), int(found[2]), found[3] or "bicubic")
        if protocol.crop != side:
            raise InputError(f"protocol {text}: crops {protocol.crop} pixels; the network takes {side}")
        return protocol

    @classmethod
    def of_run(cls, preprocessing: Mapping[str, Any]) -> Protocol:
        """What a run stored of its own way (`summary.json`, `preprocessing`).

        Raises:
            InputError: if it is no such document.
        """
        return cls.from_json({"name": "run", "square": True, **preprocessing})

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Protocol:
        """The reverse of `to_json`.

        Raises:
            InputError: if the document is of something else.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(document.keys() - names):
            raise InputError(
                f"protocol: {', '.join(unknown)} is not known; known: {', '.join(sorted(names))}"
            )
        try:
            triples = {key: tuple(map(float, document[key])) for key in ("mean", "std") if key in document}
            made: dict[str, Any] = {**document, **triples}
            return cls(**made)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"protocol: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def prepare(self, picture: Image.Image) -> Tensor:
        """A picture of any mode as float32 (3, crop, crop), normalised."""
        pixels = square(picture, self.resize) if self.square else self._resized(as_rgb(picture))
        margins = (side - self.crop for side in pixels.shape[:2])
        top, left = (one // 2 if self.square else round(one / 2) for one in margins)  # as torchvision rounds
        cropped = torch.from_numpy(pixels[top : top + self.crop, left : left + self.crop].copy())
        x = cropped.permute(2, 0, 1).contiguous().float().div(255)
        return functional.normalize(x, list(self.mean), list(self.std), inplace=True)

    def _resized(self, picture: Image.Image) -> np.ndarray:
        size = (self.resize, self.resize) if self.squash else self.resize
        whole = picture if self.squash else _trimmed(picture)
        return np.asarray(Resize(size, str_to_interp_mode(self.interpolation))(whole))

    def __str__(self) -> str:
        how = "whole picture" if self.squash else f"{self.resize}→{self.crop}"
        return f"{self.name} ({how}, {self.interpolation})"


def _trimmed(picture: Image.Image) -> Image.Image:
    """The middle of a picture that is a mere strip, of which a centre crop would see no more."""
    width, height = picture.size
    most = _STRIP * min(width, height)
    if max(width, height) <= most:
        return picture
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return picture.crop((left, top, min(width, left + most), min(height, top + most)))
