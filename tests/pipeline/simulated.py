"""A made-up clock for tests of everything around measuring: latencies follow from MACs, the same every time.

It replaces the four places where the pipeline times something. Run as a program, it does a slimming run on
that clock, for tests that kill it and for torchrun:

    python simulated.py DATA OUT [BUDGETS [fine] [KEY=VALUE ...]]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.data.augmentation import Augmentation
from efficientformer.latency.budget import Budget
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.table import rows
from efficientformer.latency.table.chains import Chain, name_of
from efficientformer.latency.target import Target
from efficientformer.layers import Layer
from efficientformer.pipeline import contract, preflight, prove, slim
from efficientformer.pipeline.job import Job
from efficientformer.search.space.search_space import OPEN_KINDS, PAPER_KINDS
from efficientformer.search.supernet.draws import Sampling
from efficientformer.training import loop

Patch = Callable[[Any, str, Any], None]


def receipt(name: str, target: Target, ms: float) -> Measurement:
    """A made-up receipt."""
    return Measurement(name, str(target), (ms,) * 30, fingerprint(target), "2000-01-01T00:00:00+00:00")


def layer_ms(layer: Layer) -> float:
    """A made-up latency of a layer."""
    return 0.01 + layer.macs / 1e7


def network_ms(architecture: Architecture, target: Target | None = None) -> float:
    """A made-up latency of a network: slower than the sum of its layers, as real ones are."""
    speed = SPEED[target.precision] if target else 1.0
    layers = 1.3 * sum(layer_ms(layer) for layer in architecture.layers()) + architecture.params * 1e-8
    return 0.005 + speed * layers


SPEED = {"fp32": 1.0, "int8": 0.6, "bf16": 0.8}
"""Made-up: what a network takes in each precision, over what it takes in float32."""


def install(
    patch: Patch, *, slower_when_exported: float = 1.0, clock: Callable[[], float] = lambda: 1.0
) -> None:
    """Replace what measures. `patch(module, name, function)` sets an attribute.

    `clock` is asked once for each run of the search and the proof: how slow the machine is just then.
    """

    def measure_chains(chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
        speed = SPEED[target.precision]
        times = {name_of(chain): 0.005 + speed * sum(map(layer_ms, chain)) for chain in chains}
        return {name: receipt(name, target, ms) for name, ms in times.items()}

    def measure_untrained(
        networks: Sequence[Architecture], target: Target
    ) -> dict[Architecture, Measurement]:
        return {one: receipt(str(one), target, network_ms(one, target)) for one in networks}

    def quick_receipt(architecture: Architecture, target: Target) -> Measurement:
        return receipt(str(architecture), target, clock() * network_ms(architecture, target))

    def time_entries(entries: Mapping[str, Any], target: Target, **_: Any) -> dict[str, Measurement]:
        """The final run: the slimmed network's made-up latency; the others take a millisecond."""
        slow = clock()
        return {name: receipt(name, target, slow * final.get(name, 1.0)) for name in entries}

    final: dict[str, float] = {}
    proving = prove.prove

    def remember(network: Any, folder: Any, plan: Any, target: Target, *rest: Any) -> Any:
        final[prove.UNTRAINED] = network_ms(network.architecture, target)
        final["slimmed"] = slower_when_exported * final[prove.UNTRAINED]
        return proving(network, folder, plan, target, *rest)

    patch(rows, "measure_chains", measure_chains)
    patch(preflight, "measure_untrained", measure_untrained)
    patch(contract, "quick_receipt", quick_receipt)
    patch(prove, "time_entries", time_entries)
    patch(contract, "prove", remember)


FINE: dict[str, Any] = {
    "kinds": OPEN_KINDS,
    "expansions": (2, 3),
    "width_step": 8,
    "sampling": Sampling(paths="sampled", elastic=True),
    "evaluations": 24,
}
"""A space whose networks lie close to each other."""


def tiny_job(data: Path, budget: str = "60%", **changes: Any) -> Job:
    """Seconds of training; digits-sized images; the paper's way."""
    settings: dict[str, Any] = {
        "kinds": PAPER_KINDS,
        "expansions": (),
        "policy": "greedy",
        "sampling": Sampling(),
        "input_size": 32,
        "supernet": "xs",
        "supernet_epochs": 1,
        "epochs": 1,
        "batch_size": 16,
        "augmentation": Augmentation(0.7, False),
    }
    return Job(data, tuple(map(Budget.parse, budget.split(","))), **(settings | changes))


if __name__ == "__main__":
    install(setattr)
    loop.CHECKPOINT_S = 0.0  # after every step, so that a run that is killed again and again gets on
    data, out, *rest = sys.argv[1:]
    changes: dict[str, Any] = dict(pair.split("=") for pair in rest[1:] if pair != "fine")
    if "precisions" in changes:
        changes["precisions"] = tuple(changes["precisions"].split(","))
    if "paths" in changes:
        changes["sampling"] = Sampling(paths=changes.pop("paths"))
    settings = FINE if "fine" in rest else {}
    slim.slim_to_budgets(tiny_job(Path(data), *rest[:1], **(settings | changes)), Path(out))
