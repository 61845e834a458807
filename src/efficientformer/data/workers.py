"""Data-loader processes that start fast, leave stopping to the parent, and do not outlive it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

_STOPS = (signal.SIGINT, signal.SIGTERM)
_PRELOADED = ["efficientformer.data.stream"]


class Pinnable(Protocol):
    """What can be put into page-locked memory."""

    def pin_memory(self: _Batch) -> _Batch:
        """The same in page-locked memory."""
        ...


_Batch = TypeVar("_Batch", bound=Pinnable)


class WorkerBatches(Generic[_Batch]):
    """What a reader makes of each of some draws, in their order.

    Args:
        reader: makes a batch, `reader[draws]`; workers get a copy.
        draws: of each batch.
        workers: processes; 0 for this one.
        device: where batches are used; for a GPU they come in page-locked memory.
        keep: whether the workers stay for another iteration.
    """

    def __init__(
        self, reader: Dataset[_Batch], draws: Iterable[Any], workers: int, device: torch.device, keep: bool
    ) -> None:
        self._reader, self._draws, self._workers, self._keep = reader, draws, workers, keep
        self._pin = device.type == "cuda"
        self._loader: DataLoader[_Batch] | None = None
        self._iterator: Iterator[_Batch] = iter(())
        self._turn = 0
        _LIVE.add(self)

    def __iter__(self) -> Iterator[_Batch]:
        self._turn += 1  # iterators given earlier end
        return self._batches(self._turn)

    def close(self) -> None:
        """End the workers; iterators end too."""
        self._turn += 1
        self._loader, self._iterator = None, iter(())

    def _batches(self, turn: int) -> Generator[_Batch]:
        if turn != self._turn:
            return
        self._iterator = self._by_workers() if self._workers else map(self._read_here, self._draws)
        try:
            while turn == self._turn and (batch := next(self._iterator, None)) is not None:
                yield batch
        finally:
            if turn == self._turn and not self._keep:
                self.close()

    def _read_here(self, draws: Any) -> _Batch:
        batch = self._reader[draws]
        return batch.pin_memory() if self._pin else batch

    def _by_workers(self) -> Iterator[_Batch]:
        with warnings.catch_warnings(), _stops_held_back():
            warnings.simplefilter("ignore")  # more workers than processors are the user's choice
            if self._loader is None:
                self._loader = self._made_loader()
            return iter(self._loader)

    def _made_loader(self) -> DataLoader[_Batch]:
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=self._draws,
            num_workers=self._workers,
            pin_memory=self._pin,
            worker_init_fn=_welcome,
            multiprocessing_context=_context(),
            generator=torch.Generator(),  # or the global one is drawn from
            persistent_workers=self._keep,
        )


_LIVE: weakref.WeakSet[WorkerBatches[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before `multiprocessing` ends the workers by SIGTERM, which they do not heed, and waits for them."""
    for batches in list(_LIVE):
        batches.close()


def _context() -> multiprocessing.context.BaseContext:
    """How workers are started: forked from a server that does nothing else and has imported everything once.

    Forking the training process itself would copy its threads' locks in whatever state they are (Python 3.12
    warns of it); `spawn` imports torch anew in each worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)  # of effect before the first worker alone
    return context


@contextmanager
def _stops_held_back() -> Generator[None]:
    """Ctrl-C and SIGTERM wait while this holds, and in processes started now until they say otherwise."""
    resource_tracker.ensure_running()  # it would be started in between, and lets both signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _welcome(worker: int) -> None:
    """What a worker does first; `worker` is its number, as torch's `DataLoader` tells it."""
    for number in _STOPS:  # the parent decides, when its step is over
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """torch's own watch looks at the process's parent, which is the server and lives on with its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
