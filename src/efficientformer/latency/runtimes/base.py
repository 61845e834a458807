"""What every runtime can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Traced:
    """A module to export, with the shape of the one tensor it takes, batch first."""

    module: nn.Module
    shape: tuple[int, ...]


class Session(Protocol):
    """A loaded file, ready to run."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, batch first."""
        ...

    @property
    def takes_float32(self) -> bool:
        """Whether its input is of 32-bit floats."""
        ...

    def run(self, array: np.ndarray) -> np.ndarray:
        """The outputs for one float32 input of the exported shape."""
        ...


class Runtime(Protocol):
    """An inference runtime."""

    @property
    def suffix(self) -> str:
        """The ending of its files."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices it runs on here."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions it is used with here."""
        ...

    def version(self) -> str:
        """The installed version."""
        ...

    def export(self, traced: Traced, path: Path) -> None:
        """Write one module as a file of this runtime."""
        ...

    def export_many(self, traced: Sequence[Traced]) -> list[bytes]:
        """Several small modules, each as the content of a file of its own."""
        ...

    def load(self, source: Path | bytes, threads: int) -> Session:
        """A file, or its content, ready to run on so many threads."""
        ...
