"""Some of a source's pictures."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence

from efficientformer.data.sources.base import Source


class Picked:
    """Some of a source's pictures as a `Source`.

    Args:
        source: the whole.
        indices: of the pictures, ascending.
    """

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, array("q", indices)
        self.labels: Sequence[int] = array("q", (source.labels[index] for index in indices))
        bounds = [
            (bisect_left(indices, block.start), bisect_left(indices, block.stop)) for block in source.blocks
        ]
        self.blocks: Sequence[range] = tuple(range(start, stop) for start, stop in bounds if stop > start)

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """As the whole names it."""
        return self._source.name(self._indices[index])

    def read(self, index: int) -> bytes:
        """The encoded picture."""
        return self._source.read(self._indices[index])

    def digest(self) -> str:
        """Changes with the whole, and with what is picked."""
        return self._with_indices(self._source.digest())

    def stamp(self) -> str:
        """Changes also when a file of the whole is written anew."""
        return self._with_indices(self._source.stamp())

    def _with_indices(self, whole: str) -> str:
        return hashlib.sha256(whole.encode() + self._indices.tobytes()).hexdigest()
