"""Images decoded once, to one size, into an array on disk that is used as if it were memory.

An unreadable file is named, counted and left out; too many of them stop the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientformer.data.bad_files import BadFiles
from efficientformer.data.decode import read_from, square, without_warnings
from efficientformer.data.sources.base import Source
from efficientformer.data.sources.folder import Folder, Sample
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_json
from efficientformer.progress import Progress

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
    pictures: Sequence[Sample] | Source,
    side: int,
    cache: Path,
    progress: Progress | None = None,
) -> Images:
    """Decode pictures to squares: orientation applied, RGB, short side to `side` (bicubic), centre crop.

    Args:
        pictures: the files with their classes, or any source.
        side: pixels of the squares.
        cache: path of the array; used again if it was made from the same pictures.
        progress: told how far it is.

    Raises:
        InputError: if none is readable.
    """
    source = Folder(pictures) if isinstance(pictures, Sequence) else pictures
    key = hashlib.sha256(json.dumps([side, source.stamp()]).encode()).hexdigest()
    about = cache.with_suffix(".json")
    if not (cache.exists() and about.exists() and read_json(about)["key"] == key):
        _decode_to(source, side, cache, about, key, progress or Progress(None))
    document = read_json(about)
    pixels = np.memmap(cache, np.uint8, mode="c", shape=(len(document["labels"]), side, side, 3))
    return Images(torch.from_numpy(pixels), torch.tensor(document["labels"]), tuple(document["unreadable"]))


def refuse_unreadable(parts: Sequence[Images], limit: float) -> None:
    """Stop if too many files were left out.

    Raises:
        InputError: naming the first of them.
    """
    unreadable = [name for part in parts for name in part.unreadable]
    BadFiles(len(unreadable) + sum(map(len, parts)), limit).add(unreadable)


def _decode_to(source: Source, side: int, cache: Path, about: Path, key: str, progress: Progress) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)  # an array without its description is not used
    labels, unreadable = [], []
    with cache.open("wb") as file, without_warnings():
        for index, pixels in _decoded(source, side):
            if isinstance(pixels, str):
                unreadable.append(f"{source.name(index)}: {pixels}")
                progress.line(f"   unreadable, left out: {unreadable[-1]}")
            else:
                file.write(pixels.tobytes())
                labels.append(source.labels[index])
            progress.update(index + 1, len(source), f"decoding to {side}×{side}")
    if not labels:
        raise InputError(f"none of {len(source)} images is readable; the first: {unreadable[0]}")
    write_json(about, {"key": key, "labels": labels, "unreadable": unreadable})


def _decoded(source: Source, side: int) -> Iterator[tuple[int, np.ndarray | str]]:
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(source)))
            yield from zip(chunk, pool.map(lambda index: _read(source, index, side), chunk), strict=True)


def _read(source: Source, index: int, side: int) -> np.ndarray | str:
    """A square of pixels, or why there is none."""
    picture = read_from(source, index)
    return picture if isinstance(picture, str) else square(picture, side)
