"""An exported file with its proof: what it differs from PyTorch by. It fails closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efficientformer.latency.runtimes import RUNTIMES, Traced
from efficientformer.latency.target import Target
from efficientformer.model.deploy import fold
from efficientformer.model.network import EfficientFormer

MAX_DIFFERENCE = 1e-4  # float32: largest difference of a logit over the largest logit


class ExportMismatchError(RuntimeError):
    """An exported file does not compute what the network computes."""


@dataclass(frozen=True)
class Artefact:
    """An exported file and how it compares with PyTorch.

    Attributes:
        path: the file.
        target: what it was exported for.
        size_bytes: the file's size.
        max_difference: largest difference of a logit, over the largest logit.
        images: how many images the comparison used.
        agreement: share of them with the same top-1 class.
    """

    path: str
    target: str
    size_bytes: int
    max_difference: float
    images: int
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self)


def export(network: EfficientFormer, path: Path, target: Target, images: Tensor) -> Artefact:
    """Fold, export, load and compare.

    Args:
        network: what to export.
        path: the file to write.
        target: what for.
        images: (n, 3, H, W), normalised as in training; the outputs are compared on them.

    Raises:
        ExportMismatchError: if the file's outputs differ from the network's by more than `MAX_DIFFERENCE`,
            or the file is too small to hold the network's weights.
    """
    runtime = RUNTIMES[target.runtime]
    network = network.eval()
    folded = fold(network)
    unchecked = path.with_name("unchecked-" + path.name)
    runtime.export(Traced(folded, (1, *images.shape[1:])), unchecked)
    with torch.no_grad():
        wanted = network(images).numpy()
    session = runtime.load(unchecked, target.threads)
    given = np.concatenate([session.run(image[None]) for image in images.contiguous().numpy()])
    difference = float(np.abs(given - wanted).max() / max(np.abs(wanted).max(), 1e-12))
    agreement = float((given.argmax(1) == wanted.argmax(1)).mean())
    size, least = unchecked.stat().st_size, 4 * sum(p.numel() for p in folded.parameters())
    if not difference <= MAX_DIFFERENCE:  # NaN fails as well
        raise ExportMismatchError(
            f"{path}: outputs differ by {difference:.2e}, at most {MAX_DIFFERENCE:g} is allowed"
        )
    if size < least:
        raise ExportMismatchError(
            f"{unchecked}: {size} bytes cannot hold the network's {least} bytes of weights"
        )
    unchecked.replace(path)
    return Artefact(path.name, str(target), size, difference, len(images), agreement)


def runner(source: Path | bytes, target: Target, shape: tuple[int, ...]) -> Callable[[], object]:
    """A callable that runs an exported file once on random numbers, for `measure`."""
    session = RUNTIMES[target.runtime].load(source, target.threads)
    array = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return lambda: session.run(array)


def network_runner(network: nn.Module, target: Target, image: tuple[int, int, int]) -> Callable[[], object]:
    """The same for a module that was not exported yet; ours are folded first."""
    module = fold(network) if isinstance(network, EfficientFormer) else network.eval()
    shape = (1, *image)
    return runner(RUNTIMES[target.runtime].export_many([Traced(module, shape)])[0], target, shape)
