"""Ctrl-C and SIGTERM, taken note of while a step is under way and acted on when it is over."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The training was asked to stop, and has saved its state.

    Attributes:
        terminated: whether by SIGTERM, which machines send; then `train` ends with exit code 0.
    """

    def __init__(self, *, terminated: bool) -> None:
        super().__init__()
        self.terminated = terminated


@contextlib.contextmanager
def stop_requests() -> Generator[Callable[[], int], None, None]:
    """While this holds, Ctrl-C and SIGTERM wait; the function gives the number of one that came, or 0."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield lambda: 0
        return
    before = {number: signal.signal(number, lambda got, _frame: came.append(got)) for number in _STOPS}
    try:
        yield lambda: came[-1] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
