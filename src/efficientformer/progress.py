"""What long work tells the person who waits: stages, and lines with an ETA, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

Told = Callable[[int, int, str], None]
"""Told (steps done, steps to do, what was done)."""


class Progress:
    """Lines, at most one every `every_s` seconds within a stage; a silent one for tests is `Progress(None)`.

    Args:
        stream: where to write; what is standard error at the time, if not given.
        every_s: least seconds between two updates of the same stage.
    """

    def __init__(self, stream: TextIO | Literal["stderr"] | None = "stderr", every_s: float = 5.0) -> None:
        self._stream, self._every_s = stream, every_s
        self._last = 0.0
        self._begin(0, 0)

    def _begin(self, done: int, total: int) -> None:
        """A count of steps begins; one that is resumed does not begin at 0."""
        self._begun, self._first, self._done, self._total = time.monotonic(), done, done, total

    def stage(self, title: str) -> None:
        """A new stage begins."""
        self._last = 0.0
        self._begin(0, 0)
        self.line(f"── {title}")

    def line(self, text: str) -> None:
        """One line, always."""
        if self._stream is not None:
            print(text, file=sys.stderr if self._stream == "stderr" else self._stream, flush=True)

    def update(self, done: int, total: int, text: str) -> None:
        """So much of the stage is done; printed if the last line is old enough, or it was the last of it."""
        now = time.monotonic()
        if total != self._total or done < self._done:  # a stage may count several times
            self._begin(done, total)
        self._done = done
        if now - self._last < self._every_s and done < total:
            return
        self._last = now
        worked = done - self._first
        rest = (now - self._begun) / worked * (total - done) if worked > 0 else 0.0
        eta = f" · {clock(rest)} left" if done < total and worked > 0 else ""
        self.line(f"   {text} · {done}/{total}{eta}")


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
