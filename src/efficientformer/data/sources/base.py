"""What every source of labelled pictures can do: folders, shards and tables look the same from here on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Source(Protocol):
    """Labelled pictures that can be read in any order, from any process.

    A source is small and picklable by `multiprocessing` (data-loader workers get a copy); it opens files when
    it reads. Pictures are told apart by their index, which is the same for the same files.

    Attributes:
        labels: class index of each picture.
        blocks: runs of indices that lie together on disk, in order, covering all: a shard or a row group
            each; none for folders, where any order is as fast. An epoch's order shuffles blocks, and pictures
            within a window of them, so that a shard is read once and not a thousand times.
    """

    labels: Sequence[int]
    blocks: Sequence[range]

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def name(self, index: int) -> str:
        """What a person finds the picture by: its path, or `shard.tar: key.jpg`."""
        ...

    def read(self, index: int) -> bytes:
        """The encoded picture.

        Raises:
            OSError: if it is not there any more, or cannot be read.
        """
        ...

    def digest(self) -> str:
        """Changes if a picture is added, removed, changed in size or moved to another class or place."""
        ...

    def stamp(self) -> str:
        """Changes with the digest, and when a file is written anew."""
        ...


@dataclass(frozen=True)
class Parts:
    """A data set.

    Attributes:
        classes: names, sorted; a class's index is its place.
        train: for learning weights.
        val: for the final figures alone.
    """

    classes: tuple[str, ...]
    train: Source
    val: Source
