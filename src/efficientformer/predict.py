"""What is in these pictures: a network, the preparation that belongs to it, the names of its classes.

efficientformer predict cat.jpg --model efficientformer_l1 --pretrained efficientformer_l1.safetensors
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from efficientformer.data.batches import normalise
from efficientformer.data.images import as_rgb, square
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.model.checkpoint import load_model
from efficientformer.model.deploy import fold
from efficientformer.model.network import EfficientFormer, both_sides
from efficientformer.model.pretrained import create_transform
from efficientformer.model.zoo import create_model
from efficientformer.presets import PRESETS

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

    network: torch.nn.Module
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
        model: a finished run's folder, a `.safetensors` file that `save_model` wrote, or a preset.
        pretrained: a preset's weights: a file of any layout, or `hub` to fetch the published ones.
        input_size: pixels of a side; the network's own by default.

    Raises:
        InputError: if there is no such network, or it has no weights.
    """
    path = Path(model)
    network = load_network(model, pretrained)
    if run := _run_of(path):
        about = read_json(run / "summary.json")
        if input_size and (input_size, input_size) != network.architecture.input_size:
            raise InputError(
                f"{run}: was trained at {about['preprocessing']['crop']} pixels; leave --input-size out"
            )
        return Predictor(fold(network), _preparation(about), about["classes"])
    return _ready(network, input_size)


def load_network(model: str, pretrained: str | None = None) -> EfficientFormer:
    """A network with weights, by what a person calls it; the arguments are `predictor`'s.

    Raises:
        InputError: if there is no such network, or it has no weights.
    """
    path = Path(model)
    if model.partition(".")[0] in PRESETS and not path.exists():
        if not pretrained:
            raise InputError(
                f"{model} has no weights of its own: give --pretrained FILE, or --pretrained hub to fetch "
                "the published ones"
            )
        return create_model(model, True if pretrained == "hub" else pretrained)
    if pretrained and path.exists():
        raise InputError(f"{model} has its own weights; --pretrained is for presets")
    if path.is_dir():
        if not _run_of(path):
            raise InputError(f"{path}: holds no finished run (model.safetensors and summary.json)")
        return load_model(path / "model.safetensors")
    if path.is_file():
        return load_model(path)
    known = f"a run's folder, a .safetensors file or one of {', '.join(PRESETS)}"
    raise InputError(f"model {model!r} is not known; give {known}")


def run_preparation(model: Path) -> Callable[[Image.Image], Tensor] | None:
    """How a finished run prepares pictures, given its folder or its weights; None if it is none."""
    run = _run_of(model)
    return _preparation(read_json(run / "summary.json")) if run else None


def _run_of(model: Path) -> Path | None:
    """The folder of the finished run that a folder or a file of weights belongs to."""
    run = model.parent if model.name == "model.safetensors" else model
    finished = (run / "model.safetensors").is_file() and (run / "summary.json").is_file()
    return run if finished else None


def _preparation(about: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    resize, crop = about["preprocessing"]["resize"], about["preprocessing"]["crop"]
    margin = (resize - crop) // 2

    def prepare(picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(square(picture, resize).copy())
        return normalise(pixels[None, margin : margin + crop, margin : margin + crop])[0]

    return prepare


def _ready(network: EfficientFormer, input_size: int | None) -> Predictor:
    if input_size:
        network.set_input_size(both_sides(input_size))
    if not network.num_classes or not network.architecture.global_pool:
        raise InputError("this network gives features, not classes (num_classes 0, or global_pool empty)")
    names = _class_names(network.num_classes)
    return Predictor(fold(network), cast(Callable[[Image.Image], Tensor], create_transform(network)), names)


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata is no reason to refuse a picture
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return as_rgb(image)
    except Exception as error:  # decoders raise whatever they like on damaged files
        return f"{type(error).__name__}: {error}".splitlines()[0]
