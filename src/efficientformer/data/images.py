"""Images decoded once, to one size, into an array on disk that is used as if it were memory.

An unreadable file is named, counted and left out; too many of them stop the run.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from efficientformer.data.folder import Sample
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_json
from efficientformer.progress import Progress

MAX_UNREADABLE = 0.05  # of all images
_CHUNK = 256


@dataclass(frozen=True)
class Images:
    """Decoded images.

    Attributes:
        pixels: uint8 (n, side, side, 3).
        labels: int64 (n,).
        unreadable: the files left out, each with the reason.
    """

    pixels: Tensor
    labels: Tensor
    unreadable: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, count: int) -> Images:
        """At most `count` of them, in an order in which the classes are mixed; the same ones every time."""
        order = np.random.default_rng(len(self)).permutation(len(self))[:count]
        chosen = torch.from_numpy(order)
        return Images(self.pixels[chosen], self.labels[chosen], ())


def decode(
    samples: Sequence[Sample],
    side: int,
    cache: Path,
    progress: Progress | None = None,
) -> Images:
    """Decode files to squares: orientation applied, RGB, short side to `side` (bicubic), centre crop.

    Args:
        samples: the files with their classes.
        side: pixels of the squares.
        cache: path of the array; used again if it was made from the same files.
        progress: told how far it is.

    Raises:
        InputError: if none is readable.
    """
    key = _key(samples, side)
    about = cache.with_suffix(".json")
    if not (cache.exists() and about.exists() and read_json(about)["key"] == key):
        _decode_to(samples, side, cache, about, key, progress or Progress(None))
    document = read_json(about)
    pixels = np.memmap(cache, np.uint8, mode="c", shape=(len(document["labels"]), side, side, 3))
    return Images(torch.from_numpy(pixels), torch.tensor(document["labels"]), tuple(document["unreadable"]))


def refuse_unreadable(parts: Sequence[Images], limit: float) -> None:
    """Stop if too many files were left out.

    Raises:
        InputError: naming the first of them.
    """
    unreadable = [name for part in parts for name in part.unreadable]
    total = len(unreadable) + sum(map(len, parts))
    if len(unreadable) > limit * total:
        share = f"{len(unreadable)} of {total} images are unreadable"
        raise InputError(f"{share}, more than --max-unreadable {limit:.0%}; the first: {unreadable[0]}")


def _decode_to(
    samples: Sequence[Sample], side: int, cache: Path, about: Path, key: str, progress: Progress
) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)  # an array without its description is not used
    labels, unreadable = [], []
    with cache.open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged metadata is no reason to leave a picture out
        for done, (path, label), pixels in _decoded(samples, side):
            if isinstance(pixels, str):
                unreadable.append(f"{path}: {pixels}")
                progress.line(f"   unreadable, left out: {path}: {pixels}")
            else:
                file.write(pixels.tobytes())
                labels.append(label)
            progress.update(done, len(samples), f"decoding to {side}×{side}")
    if not labels:
        raise InputError(f"none of {len(samples)} images is readable; the first: {unreadable[0]}")
    write_json(about, {"key": key, "labels": labels, "unreadable": unreadable})


def _decoded(samples: Sequence[Sample], side: int) -> Iterator[tuple[int, Sample, np.ndarray | str]]:
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), _CHUNK):
            chunk = samples[start : start + _CHUNK]
            decoded = pool.map(lambda sample: _read(sample[0], side), chunk)
            for offset, (sample, pixels) in enumerate(zip(chunk, decoded, strict=True)):
                yield start + offset + 1, sample, pixels


def _read(path: Path, side: int) -> np.ndarray | str:
    """A square of pixels, or why there is none."""
    try:
        with Image.open(path) as image:
            return square(image, side)
    except Exception as error:  # decoders raise whatever they like on damaged files
        return f"{type(error).__name__}: {error}".splitlines()[0]


def square(image: Image.Image, side: int) -> np.ndarray:
    """An image as uint8 (side, side, 3): orientation applied, RGB, short side to `side`, centre crop."""
    return np.asarray(ImageOps.fit(as_rgb(image), (side, side), Image.Resampling.BICUBIC))


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, its orientation applied."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode == "I":  # 16 bits, which `convert` would clip at 255
        upright = Image.fromarray((np.asarray(upright).clip(0, 65_535) // 257).astype(np.uint8))
    if upright.mode in ("P", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _key(samples: Sequence[Sample], side: int) -> str:
    facts = [(str(path), label, *_stamp(path)) for path, label in samples]
    return hashlib.sha256(json.dumps([side, facts]).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere: reading it will say so
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
