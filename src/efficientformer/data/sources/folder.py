"""Which files are which class, and which part of the work each file serves.

A folder is `train/<class>/*` and `val/<class>/*`, or one level of classes, which is then split by seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from efficientformer.data.sources.apart import apart
from efficientformer.data.sources.base import Parts
from efficientformer.data.sources.names import Names
from efficientformer.errors import InputError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
VAL_NAMES = ("val", "validation")
SHARE_VAL, SHARE_SEARCH = 0.2, 0.15
MAX_SEARCH = 1000  # more images would slow every candidate's evaluation and change few decisions

Sample = tuple[Path, int]
"""A file and its class index."""


class Folder:
    """Files as a `Source`: any one is read as fast after any other, so there are no blocks.

    Args:
        samples: the files with their classes.
        root: the folder they are in; wherever it lies, the digest is the same.
    """

    def __init__(self, samples: Sequence[Sample], root: Path = Path()) -> None:
        self._root = root
        self._names = Names(os.path.relpath(path, root) if root.parts else str(path) for path, _ in samples)
        self.labels: Sequence[int] = array("q", (label for _, label in samples))
        self.blocks: Sequence[range] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self._root / self._names[index])

    def read(self, index: int) -> bytes:
        """The file's content."""
        return (self._root / self._names[index]).read_bytes()

    def digest(self) -> str:
        """Changes with a file's name, class or size; every file is looked at."""
        return self._hash(with_time=False)

    def stamp(self) -> str:
        """Changes also when a file is written anew."""
        return self._hash(with_time=True)

    def _hash(self, with_time: bool) -> str:
        digest = hashlib.sha256()
        for name, label, (size, changed) in zip(self._names, self.labels, self._states(), strict=True):
            digest.update(json.dumps([name, label, size, changed if with_time else 0]).encode())
        return digest.hexdigest()

    def _states(self) -> Iterator[tuple[int, int]]:
        """Each file's size and time of change."""
        for name in self._names:
            try:
                status = (self._root / name).stat()
            except OSError:  # a link to nowhere: reading it will say so
                yield -1, -1
            else:
                yield status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Split:
    """The files of each use.

    Attributes:
        classes: names, sorted; a class's index is its place.
        train: for learning weights.
        search: set apart from training, to judge the candidates of a search.
        val: for the final figures alone.
        root: the folder they lie in.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    search: tuple[Sample, ...]
    val: tuple[Sample, ...]
    root: Path

    def digest(self) -> str:
        """Changes if a file is added, removed, changed in size, or moved to another class or part."""
        parts = [
            [[str(path.relative_to(self.root)), path.stat().st_size, label] for path, label in part]
            for part in (self.train, self.search, self.val)
        ]
        return hashlib.sha256(json.dumps([self.classes, parts]).encode()).hexdigest()[:16]


def scan(root: Path, seed: int = 0) -> Split:
    """Find and split the images of a folder.

    Raises:
        InputError: if the folder is missing, empty, has fewer than two classes, or too few images to split.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give --data a folder of <class>/*.jpg")
    train_root = root / "train" if (root / "train").is_dir() else root
    classes = _classes(train_root)
    learn = _samples(train_root, classes)
    if given := _given_val(root, train_root):
        _check_val_classes(given, classes)
        val = _samples(given, classes)
    else:
        learn, val = _part(learn, SHARE_VAL, seed)
    train, search = _part(learn, min(SHARE_SEARCH, MAX_SEARCH / max(1, len(learn))), seed + 1)
    for index, name in enumerate(classes):
        if not any(label == index for _, label in train):
            raise InputError(f"{root}: class {name} has too few images to split; give at least 10 a class")
    return Split(classes, tuple(train), tuple(search), tuple(val), root)


def open_folder(root: Path, seed: int = 0) -> Parts:
    """A folder's pictures for training and for the final figures.

    Raises:
        InputError: if there are fewer than two classes, or training and validation have other ones.
    """
    learn_root = root / "train" if (root / "train").is_dir() else root
    classes = _classes(learn_root)
    learn = _samples(learn_root, classes)
    if given := _given_val(root, learn_root):
        _check_val_classes(given, classes)
        val = _samples(given, classes)
    else:
        learn, val = _part(learn, SHARE_VAL, seed)
    for samples in (learn, val):
        if missing := set(range(len(classes))) - {label for _, label in samples}:
            part = "validation" if samples is val else "training"
            raise InputError(f"{root}: class {classes[min(missing)]} has no {part} pictures")
    return Parts(classes, Folder(learn, root), Folder(val, root))


def _given_val(root: Path, learn_root: Path) -> Path | None:
    """The folder of validation pictures, if the user set some apart."""
    if learn_root == root:
        return None
    return next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)


def _classes(root: Path) -> tuple[str, ...]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = tuple(path.name for path in folders if any(map(is_image, path.rglob("*"))))
    if not classes:
        raise InputError(f"{root}: holds no images in class folders; expected <class>/*.jpg")
    if len(classes) == 1:
        raise InputError(f"{root}: holds one class only ({classes[0]}); at least two are needed")
    return classes


def _check_val_classes(root: Path, classes: tuple[str, ...]) -> None:
    if foreign := sorted(set(_classes(root)) - set(classes)):
        raise InputError(f"{root}: class {foreign[0]} is not among the training classes")


def is_image(path: Path) -> bool:
    """Whether a file is taken for a picture, by its ending."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _samples(root: Path, classes: tuple[str, ...]) -> list[Sample]:
    return [
        (path, index)
        for index, name in enumerate(classes)
        for path in sorted(filter(is_image, (root / name).rglob("*")))
    ]


def _part(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """The samples in two, class by class: the rest, and the share (one of each class at least)."""
    rest, taken = apart((label for _, label in samples), share, seed)
    return [samples[index] for index in rest], [samples[index] for index in taken]
