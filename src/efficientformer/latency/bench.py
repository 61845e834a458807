"""Networks and files timed against each other on one target: exported, checked, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from efficientformer.latency.artefact import UNTRAINED_BOUND, export, random_images
from efficientformer.latency.measure import measure_files, until_usable
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.process import WorkerError
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES

Entry = Path | tuple[nn.Module, tuple[int, int, int]]
"""An exported file, or a network and the image (channels, height, width) it takes."""


def time_entries(
    entries: Mapping[str, Entry], target: Target, *, quiet: bool = False, **settings: Any
) -> dict[str, Measurement]:
    """Time files and networks in one interleaved run; networks are exported for it and checked.

    Taken again, up to three times, while a receipt comes out unusable.

    Args:
        entries: what to time, by name.
        target: where.
        quiet: taken again while one is noisy, too.
        settings: of `measure_files`.

    Raises:
        ExportMismatchError: if an export does not compute what its network does.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: entry if isinstance(entry, Path) else _exported(entry, Path(folder) / str(index), target)
            for index, (name, entry) in enumerate(entries.items())
        }
        return until_usable(lambda: measure_files(files, target, **settings), quiet=quiet)


def time_survivors(
    files: Mapping[str, Path], target: Target, *, tries: int = 1, **settings: Any
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Time files in one interleaved run; one that crashes is left out, and the others are timed again.

    Args:
        files: artefacts by name.
        target: where.
        tries: of `until_usable`.
        settings: of `measure_files`.

    Returns:
        the receipts, and for each file left out how it crashed.

    Raises:
        WorkerError: if the crash is none of the files'.
    """
    left, crashed = dict(files), {}
    while left:
        take = partial(measure_files, left, target, **settings)
        try:
            return until_usable(take, tries=tries), crashed
        except WorkerError as error:
            broken = [name for name, path in left.items() if str(error).startswith(f"{path}: ")]
            if not broken:
                raise
            crashed |= {name: str(error) for name in broken}
            left = {name: path for name, path in left.items() if name not in broken}
    return {}, crashed


def _exported(entry: tuple[nn.Module, tuple[int, int, int]], folder: Path, target: Target) -> Path:
    network, image = entry
    path = folder / f"model{RUNTIMES[target.runtime].suffix}"
    images, int8 = random_images(image), target.precision == "int8"
    calibration, bound = (random_images(image, 8), UNTRAINED_BOUND) if int8 else (None, None)
    export(network, path, target, images, photographs=False, calibration=calibration, bound=bound)
    return path
