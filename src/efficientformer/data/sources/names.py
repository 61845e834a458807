"""A million names in one piece of memory: a source is copied into every data-loader worker."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate


class Names:
    """Strings by their place; small, and quick to pickle.

    Args:
        names: any strings, undecodable file names among them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode(errors="surrogateescape") for name in names]
        self._text = b"".join(encoded)
        self._ends = array("q", accumulate(map(len, encoded), initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> str:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._text[self._ends[place] : self._ends[place + 1]].decode(errors="surrogateescape")
