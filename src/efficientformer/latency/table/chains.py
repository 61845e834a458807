"""What is exported and timed for a row: short chains of layers, from which the layer's own share follows.

A layer in a file of its own pays for what it does not pay in a network: its input and output are brought into
the runtime's layout, and nothing is fused across its borders. So a row is the difference of files:

    block         half of (three such blocks in a row − one)
    down-sampling pool, down-sampling, pool − half of (two such pools, before and behind)
    stem, head    stem, pool − half of (a call + two such pools); pool, head likewise

where two pools are the mean of one and three, and what a file of blocks costs beyond its rows is its border,
half of it at each side. So every row is a weighted sum of files' medians, and no border is left in it.

In a network each layer's weights come from memory that cores share, for the layers before it have filled the
core's own cache since the last image. A file of one or three blocks would keep its weights there from call to
call, the shorter one sooner, and their difference would be of two different things. So that cache is emptied
before every call that is timed.

Files are timed in batches, minutes apart, and a shared machine is faster in one than in another. So a small
network, always the same, takes its turns in every batch (`REFERENCE`), and batches are compared at its speed.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from efficientformer.latency.measure import cache_emptier, in_process, measure
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import deployed_layer, export_untrained, input_shape
from efficientformer.latency.worker import sentinel_work, timed
from efficientformer.layers import KINDS, Attention, Layer
from efficientformer.presets import pooling
from efficientformer.runtimes import Runtime, Settings, Traced, usable
from efficientformer.runtimes.base import random_image

Chain = tuple[Layer, ...]
"""Layers that follow each other in one file; none of them stands for an all but empty model."""

REFERENCE: Chain = dataclasses.replace(
    pooling((32, 64, 96, 160), (1, 1, 2, 2), 1),
    attention=Attention(heads=4, key_dim=16, value_dim=64),
    input_size=(64, 64),
    num_classes=10,
    distilled=False,
).layers()
"""All layers of a small network of the paper's two blocks."""

EMPTY: Chain = ()
CALL = "call"  # the name of its receipt: what a call costs before any layer


@functools.cache
def name_of(chain: Chain) -> str:
    """The name of a chain's receipt: its layers' keys."""
    return "+".join(layer.key() for layer in chain) or CALL


def neighbour(width: int, height: int, columns: int) -> Layer:
    """The block that stands beside layers that are no blocks."""
    return Layer("pool", width, width, height, columns, 4, "gelu")


@functools.cache
def recipe(layer: Layer) -> Mapping[Chain, float]:
    """The weighted files that a layer's row is the sum of; a chain's neighbours are pooling blocks."""
    match KINDS[layer.kind].role:
        case "block":
            return {(layer,) * 3: 0.5, (layer,): -0.5}
        case "stem":
            behind = neighbour(layer.out_width, layer.height // 4, layer.width // 4)
            return {(layer, behind): 1.0, EMPTY: -0.5, **_less_pair(behind)}
        case "head":
            before = neighbour(layer.in_width, layer.height, layer.width)
            return {(before, layer): 1.0, EMPTY: -0.5, **_less_pair(before)}
    before = neighbour(layer.in_width, layer.height, layer.width)
    behind = neighbour(layer.out_width, layer.height // 2, layer.width // 2)
    return {(before, layer, behind): 1.0, **_less_pair(before), **_less_pair(behind)}


def _less_pair(block: Layer) -> dict[Chain, float]:
    """Half of two blocks in a row, subtracted; two are halfway between one and three."""
    return {(block,): -0.25, (block,) * 3: -0.25}


def combined(layers: Mapping[Layer, float], call: float) -> dict[Chain, float]:
    """The files that a sum of rows and calls is made of: chain to weight.

    Args:
        layers: weight of each layer's row.
        call: weight of the call.
    """
    total: dict[Chain, float] = defaultdict(float, {EMPTY: call})
    for layer, weight in layers.items():
        for chain, share in recipe(layer).items():
            total[chain] += weight * share
    return total


def measure_chains(chains: Sequence[Chain], target: Target) -> dict[str, Measurement]:
    """Time chains of layers in their deployed form, in interleaved rounds; receipts by the chains' names.

    Files are in the target's precision, but for the all but empty one, which holds nothing that could be in
    another than float32. Rounds in which a fixed piece of work was slow are set aside.

    Args:
        chains: what to time.
        target: where.
    """
    runtime = usable(target.runtime, target.device)
    with tempfile.TemporaryDirectory() as folder:
        subjects, emptier = {}, cache_emptier()
        for precision in dict.fromkeys((target.precision, "fp32")):
            its = [one for one in (*chains, REFERENCE) if _precision(one, target) == precision]
            calls = _loaded(runtime, its, Path(folder) / precision, target, precision)
            subjects |= {name: in_process(call, before=emptier) for name, call in calls.items()}
        receipts = measure(
            subjects,
            target,
            rounds=8,
            seconds=0.15,
            min_samples=24,
            sentinel=in_process(sentinel_work()),
            warm_up_s=0.1,
            beside_s=statistics.median(timed(emptier, 5)) / 1e3,
        )
        return beside_reference(receipts)


def beside_reference(receipts: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """Receipts of one run without the reference's, which each of them then knows the median of."""
    reference_ms = receipts[name_of(REFERENCE)].median_ms
    others = {name: receipt for name, receipt in receipts.items() if name != name_of(REFERENCE)}
    return {name: receipt.under(reference_ms=reference_ms) for name, receipt in others.items()}


def at_speed(receipt: Measurement, reference_ms: float | None) -> float:
    """What a receipt comes to on a machine so fast that the reference takes so long there.

    Its median as it is, where either is not known.
    """
    here = receipt.conditions.reference_ms
    return receipt.median_ms * reference_ms / here if reference_ms and here else receipt.median_ms


def _precision(chain: Chain, target: Target) -> str:
    return target.precision if chain else "fp32"


def _loaded(
    runtime: Runtime, chains: Sequence[Chain], folder: Path, target: Target, precision: str
) -> dict[str, Callable[[], object]]:
    """Chains exported in a precision and loaded, ready to run, by their names."""
    if not chains:
        return {}
    folder.mkdir()
    traced = [traced_chain(chain) for chain in chains]
    files = export_untrained(runtime, traced, folder, precision)
    settings = dataclasses.replace(target.settings, precision=precision)
    return {
        name_of(chain): _call(runtime, file, item, settings)
        for chain, item, file in zip(chains, traced, files, strict=True)
    }


def measure_layers(layers: Sequence[Layer], target: Target) -> dict[str, Measurement]:
    """Time layers one by one, each in a file of its own with its borders, and an all but empty model.

    Returns:
        receipts by layer key, and under `CALL` the empty model's.
    """
    return measure_chains([*((layer,) for layer in layers), EMPTY], target)


def traced_chain(chain: Chain) -> Traced:
    """A chain to export; equal layers have different weights, or a converter would keep them once."""
    if not chain:
        return Traced(nn.ReLU(), (1, 8))
    modules = [deployed_layer(layer, seed) for seed, layer in enumerate(chain)]
    module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    return Traced(module, input_shape(chain[0]))


def _call(runtime: Runtime, file: Path, item: Traced, settings: Settings) -> Callable[[], object]:
    session, array = runtime.load(file, settings), random_image(item.shape)
    return lambda: session.run(array)
