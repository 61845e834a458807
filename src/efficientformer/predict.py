"""What is in these pictures: a network, the preparation that belongs to it, the names of its classes.

efficientformer predict cat.jpg --model efficientformer_l1 --pretrained efficientformer_l1.safetensors
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from efficientformer.data.decode import read_picture, without_warnings
from efficientformer.errors import InputError
from efficientformer.evaluation.classifier import classifier
from efficientformer.model.deploy import fold
from efficientformer.model.network import EfficientFormer

IMAGENET = 1000  # a head of so many classes is taken to be ImageNet-1K's


@dataclass(frozen=True)
class Guess:
    """One class, and how probable the network holds it."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, or why there are none.

    Attributes:
        image: the file.
        guesses: most probable first.
        error: empty, or what is wrong with the file.
    """

    image: str
    guesses: tuple[Guess, ...]
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class Predictor:
    """A network ready for pictures.

    Attributes:
        network: its deployed form.
        prepare: from an RGB picture to (3, H, W).
        classes: their names by index.
    """

    network: Callable[[Tensor], Tensor]
    prepare: Callable[[Image.Image], Tensor]
    classes: Sequence[str]

    def predict(self, paths: Iterable[Path], top: int = 5) -> Iterator[Prediction]:
        """The `top` classes of each picture, one after the other."""
        for path in paths:
            picture = open_picture(path)
            if isinstance(picture, str):
                yield Prediction(str(path), (), picture)
            else:
                yield Prediction(str(path), self._guess(picture, top))

    @torch.no_grad()
    def _guess(self, picture: Image.Image, top: int) -> tuple[Guess, ...]:
        probabilities = self.network(self.prepare(picture)[None])[0].softmax(-1)
        if not probabilities.isfinite().all():
            raise InputError("the network's outputs are not numbers: its weights are damaged or diverged")
        best = probabilities.topk(min(top, len(probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(Guess(index, self.classes[index], round(value, 6)) for index, value in pairs)


def predictor(model: str, pretrained: str | None = None, input_size: int | None = None) -> Predictor:
    """A network by what a person calls it.

    Args:
        model: a finished run's folder, a `.safetensors` file that `save_model` wrote, a preset, `timm/NAME`,
            or an exported file.
        pretrained: a preset's or timm's weights: a file, or `hub` to fetch the published ones.
        input_size: pixels of a side; the network's own by default.

    Raises:
        InputError: if there is no such network, or it has no weights.
    """
    found = classifier(model, pretrained=pretrained, input_size=input_size)
    network: Callable[[Tensor], Tensor] = found.engine
    if isinstance(found.engine, EfficientFormer):
        network = fold(found.engine)
    return Predictor(network, found.protocol.prepare, found.classes or _class_names(found.outputs))


def _class_names(count: int) -> list[str]:
    if count != IMAGENET:
        return [f"class {index}" for index in range(count)]
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index) for index in range(count)]


def open_picture(path: Path) -> Image.Image | str:
    """An RGB picture, or why there is none."""
    if path.is_dir():
        return "a folder; name its pictures"
    with without_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return read_picture(path)
