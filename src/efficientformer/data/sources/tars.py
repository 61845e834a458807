"""WebDataset shards: tar files whose members of one key are one picture with its label.

A shard is gone through once, for where each picture lies; from then on any picture is one read at its place.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from efficientformer.data.sources.base import Parts
from efficientformer.data.sources.folder import SUFFIXES
from efficientformer.data.sources.labels import by_part, classes_of, names_beside, set_apart
from efficientformer.data.sources.names import Names
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_atomically
from efficientformer.progress import Progress

_OPEN = 64  # files at once in a process; an order mixes fewer
_BLOCK = 512  # bytes of a tar's unit
_VERSION = 1  # of the index's form


@dataclass(frozen=True)
class Shard:
    """Where the pictures of one tar lie.

    Attributes:
        path: the tar.
        stamp: its size in bytes and its time of change, when it was gone through.
        names: of the members that are pictures.
        places: first byte of each.
        sizes: bytes of each.
        labels: class number of each.
    """

    path: Path
    stamp: tuple[int, int]
    names: Names
    places: array[int]
    sizes: array[int]
    labels: array[int]


class Tars:
    """Shards as a `Source`; each is a block."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = tuple(shards)
        self._starts = list(accumulate((len(shard.labels) for shard in shards), initial=0))
        self.labels: Sequence[int] = array("q", (label for shard in shards for label in shard.labels))
        pairs = zip(self._starts, self._starts[1:], strict=False)
        self.blocks: Sequence[range] = tuple(range(start, stop) for start, stop in pairs if stop > start)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """`shard.tar: key.jpg`."""
        shard, place = self._find(index)
        return f"{shard.path}: {shard.names[place]}"

    def read(self, index: int) -> bytes:
        """The member's content."""
        shard, place = self._find(index)
        size = shard.sizes[place]
        content = _handle(str(shard.path), shard.stamp).read(shard.places[place], size)
        if len(content) < size:
            raise OSError("the tar ends before it: it was cut since it was first read")
        return content

    def digest(self) -> str:
        """Changes with a member's name, size, class or place."""
        digest = hashlib.sha256()
        for shard in self._shards:
            digest.update(json.dumps([shard.path.name, *_columns(shard)]).encode())
        return digest.hexdigest()

    def stamp(self) -> str:
        """Changes also when a shard is written anew."""
        stamps = [(str(shard.path), shard.stamp) for shard in self._shards]
        return hashlib.sha256((self.digest() + json.dumps(stamps)).encode()).hexdigest()

    def _find(self, index: int) -> tuple[Shard, int]:
        shard = bisect_right(self._starts, index) - 1
        return self._shards[shard], index - self._starts[shard]


class _Handle:
    """An open file that is read at places, by any thread; closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def read(self, place: int, size: int) -> bytes:
        return os.pread(self._file, size, place)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@functools.lru_cache(_OPEN)
def _handle(path: str, stamp: tuple[int, int]) -> _Handle:  # a file written anew has another stamp
    return _Handle(path)


def open_tars(
    root: Path, files: Sequence[Path], seed: int, cache: Path | None, progress: Progress | None = None
) -> Parts:
    """Shards for training and validation; without any for validation, a share is set apart.

    Args:
        root: the folder, for messages and for a file of the classes' names.
        files: the shards.
        seed: of what is set apart.
        cache: a folder where it is kept what lies where; without one the tars are gone through each time.
        progress: told how far that is.

    Raises:
        InputError: if a tar is damaged or a picture has no label.
    """
    learn, judge = by_part(root, files)
    tell, total = (progress or Progress(None)).update, len(learn) + len(judge)
    shards = []
    for done, path in enumerate([*learn, *judge], start=1):
        shards.append(shard_of(path, cache))
        tell(done, total, "reading what the shards hold")
    train, val = Tars(shards[: len(learn)]), Tars(shards[len(learn) :])
    for source, part in ((train, learn), (val, judge)):
        if part and not len(source):
            raise InputError(f"{part[0]}: holds no pictures with a label")
    classes = classes_of(root, names_beside(root), train.labels, val.labels if judge else None)
    return Parts(classes, train, val) if judge else Parts(classes, *set_apart(train, seed))


def shard_of(path: Path, cache: Path | None = None) -> Shard:
    """What one tar holds, from the cache if the tar is still the same.

    Raises:
        InputError: if it is damaged or a picture has no label.
    """
    status = path.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    about = [_VERSION, str(path.resolve()), *stamp]
    kept = cache and cache / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.json"
    if kept and (columns := _kept(kept, about)):
        return _shard(path, stamp, *columns)
    shard = _shard(path, stamp, *_gone_through(path))
    if kept:
        write_atomically(kept, json.dumps({"about": about, "columns": _columns(shard)}))
    return shard


def _kept(path: Path, about: list[Any]) -> list[Any] | None:
    try:
        document = read_json(path)
        return document["columns"] if document["about"] == about else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: it is made anew
        return None


def _shard(
    path: Path,
    stamp: tuple[int, int],
    names: list[str],
    places: list[int],
    sizes: list[int],
    labels: list[int],
) -> Shard:
    return Shard(path, stamp, Names(names), array("q", places), array("q", sizes), array("q", labels))


def _columns(shard: Shard) -> list[list[Any]]:
    return [list(shard.names), list(shard.places), list(shard.sizes), list(shard.labels)]


def _gone_through(path: Path) -> tuple[list[str], list[int], list[int], list[int]]:
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    for member, content in _members(path):
        key, kind = _key(member.name)
        if f".{kind}" in SUFFIXES:
            if key in pictures:
                raise InputError(f"{path}: {key} has two pictures; a key is one sample")
            pictures[key] = member
        elif (
            kind in ("cls", "json")
            and (label := _label(f"{path}: {member.name}", kind, content())) is not None
        ):
            labels[key] = label
    for key in sorted(pictures.keys() ^ labels.keys()):
        lacks = "label (.cls, or .json with a whole number as label)" if key in pictures else "picture"
        raise InputError(f"{path}: {key} has no {lacks}")
    rows = [(one.name, one.offset_data, one.size, labels[key]) for key, one in pictures.items()]
    names, places, sizes, numbers = (list(column) for column in zip(*rows, strict=True)) if rows else [[]] * 4
    return names, places, sizes, numbers


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The regular files of a tar, each with a function that reads it.

    Raises:
        InputError: if the tar is compressed, or does not go to its end mark: `tarfile` is content with less.
    """
    torn = (
        f"{path}: is cut short or damaged, or no plain tar; fetch it anew, or unpack it if it is compressed"
    )
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg():
                    yield member, lambda member=member: _content(file, member)
            file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise InputError(torn)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{torn} ({error})") from None


def _content(file: Any, member: tarfile.TarInfo) -> bytes:
    before = file.tell()
    file.seek(member.offset_data)
    content = file.read(member.size)
    file.seek(before)
    return content


def _key(name: str) -> tuple[str, str]:
    """A member's key and kind, WebDataset's way: the file name is parted at its first dot."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return (folder + slash + stem, kind.lower()) if stem else (name, "")  # hidden files are none's


def _label(where: str, kind: str, content: bytes) -> int | None:
    try:
        if kind == "cls":
            return _natural(int(content))
        document = json.loads(content)
        return _natural(document["label"]) if isinstance(document, dict) and "label" in document else None
    except ValueError:
        raise InputError(f"{where}: the label must be a whole number from 0") from None


def _natural(label: Any) -> int:
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        raise ValueError
    return label
