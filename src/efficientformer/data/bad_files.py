"""Files that cannot be read: named once, counted, and put up with as long as they are few."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from efficientformer.errors import InputError

MAX_UNREADABLE = 0.05  # of all images


class BadFiles:
    """Keeps count of unreadable pictures.

    Args:
        total: pictures in the source.
        limit: share of them that may be unreadable.
        tell: told of each when it first appears.
    """

    def __init__(
        self, total: int, limit: float = MAX_UNREADABLE, tell: Callable[[str], object] | None = None
    ) -> None:
        self._total, self._limit, self._tell = total, limit, tell
        self._names: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Each once, in the order they appeared."""
        return tuple(self._names)

    def add(self, names: Iterable[str]) -> None:
        """Count those that are new.

        Raises:
            InputError: naming the first, if they are too many by now.
        """
        for name in names:
            if name not in self._names:
                self._names[name] = None
                if self._tell:
                    self._tell(f"   unreadable, left out: {name}")
        if len(self._names) > self._limit * self._total:
            share = f"{len(self._names)} of {self._total} images are unreadable"
            first = next(iter(self._names))
            raise InputError(f"{share}, more than --max-unreadable {self._limit:.0%}; the first: {first}")
