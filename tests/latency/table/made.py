"""A made-up clock for tables: files take as long as their layers, and have borders as real ones have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from efficientformer import Layer
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import LatencyTable, rows
from efficientformer.latency.table.chains import Chain, name_of
from efficientformer.latency.target import Target

TARGET = Target()
CALL_MS = 0.005


def receipt(ms: float, spread_ms: float = 0.0) -> Measurement:
    samples = tuple(ms + spread_ms * (index - 10) / 10 for index in range(21))
    return Measurement("fake", str(TARGET), samples, fingerprint(TARGET), "2025-01-01")


def fake_ms(layer: Layer) -> float:
    """Grows with the widths and with whatever a layer computes."""
    area = layer.height * layer.width
    return 0.01 + 1e-6 * (layer.macs + layer.params + area * (layer.in_width + layer.out_width))


def border_ms(layer: Layer) -> float:
    """What entering or leaving a file through a layer costs."""
    return 1e-5 * layer.height * layer.width


def chain_ms(chain: Chain) -> float:
    """A call, the layers, and both borders, but where images and classes cross them in networks too."""
    borders = sum(
        border_ms(layer)
        for layer, foreign in zip(chain[:1] + chain[-1:], ("stem", "head"), strict=False)
        if not layer.kind.startswith(foreign)
    )
    return CALL_MS + sum(map(fake_ms, chain)) + borders


class Drifting:
    """A machine that is so many times as slow in each batch as in the first; the reference tells."""

    def __init__(self, *slow: float, reference_ms: float = 0.4) -> None:
        self.slow, self.reference_ms, self.batches = slow, reference_ms, 0

    def __call__(self, chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
        slow = self.slow[self.batches % len(self.slow)]
        self.batches += 1
        return {
            name_of(chain): receipt(slow * chain_ms(chain)).under(reference_ms=slow * self.reference_ms)
            for chain in chains
        }


def fake_chains(chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
    return {name_of(chain): receipt(chain_ms(chain), 0.001 if chain else 0.0) for chain in chains}


Open = Callable[..., LatencyTable]


@contextlib.contextmanager
def made_up(measure: Callable[..., dict[str, Measurement]] = fake_chains) -> Iterator[None]:
    """Tables are filled from a made-up clock meanwhile."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "measure_chains", measure)
        yield


def opened_in(stack: contextlib.ExitStack, path: Path) -> Open:
    """Opens a table, each time as if in another process."""
    return lambda target=TARGET, **options: stack.enter_context(
        contextlib.closing(LatencyTable(path, target, **options))
    )
