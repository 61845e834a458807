"""A made-up clock for tests of everything around measuring: latencies follow from MACs, the same every time.

It replaces the four places where the pipeline times something. Run as a program, it does a slimming run on
that clock, for tests that kill it:  python simulated.py DATA OUT
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.data.augmentation import Augmentation
from efficientformer.latency import table
from efficientformer.latency.budget import Budget
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.layers import Layer
from efficientformer.pipeline import preflight, prove, slim
from efficientformer.pipeline.job import Job
from efficientformer.training import loop

Patch = Callable[[Any, str, Any], None]


def receipt(name: str, target: Target, ms: float) -> Measurement:
    """A made-up receipt."""
    return Measurement(name, str(target), (ms,) * 30, fingerprint(target), "2000-01-01T00:00:00+00:00")


def layer_ms(layer: Layer) -> float:
    """A made-up latency of a layer."""
    return 0.01 + layer.macs / 1e7


def network_ms(architecture: Architecture) -> float:
    """A made-up latency of a network: slower than the sum of its layers, as real ones are."""
    return 0.005 + 1.3 * sum(layer_ms(layer) for layer in architecture.layers()) + architecture.params * 1e-8


def install(patch: Patch, *, slower_when_exported: float = 1.0) -> None:
    """Replace what measures. `patch(module, name, function)` sets an attribute."""

    def measure_layers(layers: Sequence[Layer], target: Target, *, with_call: bool) -> dict[str, Measurement]:
        made = {layer.key(): receipt(layer.key(), target, 0.005 + layer_ms(layer)) for layer in layers}
        return made | ({table.CALL: receipt(table.CALL, target, 0.005)} if with_call else {})

    def measure_untrained(
        networks: Sequence[Architecture], target: Target
    ) -> dict[Architecture, Measurement]:
        return {one: receipt(str(one), target, network_ms(one)) for one in networks}

    def quick_receipt(architecture: Architecture, target: Target) -> Measurement:
        return receipt(str(architecture), target, network_ms(architecture))

    def time_entries(entries: Mapping[str, Any], target: Target, **_: Any) -> dict[str, Measurement]:
        """The final run: the slimmed network's made-up latency; the others take a millisecond."""
        return {name: receipt(name, target, final.get(name, 1.0)) for name in entries}

    final: dict[str, float] = {}
    proving = prove.prove

    def remember(network: Any, *rest: Any) -> Any:
        final["slimmed"] = slower_when_exported * network_ms(network.architecture)
        return proving(network, *rest)

    patch(table, "measure_layers", measure_layers)
    patch(preflight, "measure_untrained", measure_untrained)
    patch(slim, "quick_receipt", quick_receipt)
    patch(prove, "time_entries", time_entries)
    patch(slim, "prove", remember)


def tiny_job(data: Path, budget: str = "60%", **changes: Any) -> Job:
    """Seconds of training; digits-sized images."""
    settings: dict[str, Any] = {
        "input_size": 32,
        "supernet": "xs",
        "supernet_epochs": 1,
        "epochs": 1,
        "batch_size": 16,
        "augmentation": Augmentation(0.7, False),
    }
    return Job(data, Budget.parse(budget), **(settings | changes))


if __name__ == "__main__":
    install(setattr)
    loop.CHECKPOINT_S = 0.0  # after every step, so that a run that is killed again and again gets on
    slim.slim(tiny_job(Path(sys.argv[1])), Path(sys.argv[2]))
