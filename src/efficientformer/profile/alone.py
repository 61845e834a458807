"""Blocks timed one by one, for runtimes that have no profiler. Said openly: it is no profile of the whole."""

from __future__ import annotations

from efficientformer.errors import InputError
from efficientformer.latency.subjects import Subject
from efficientformer.latency.table import CALL, measure_layers
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.profile.blocks import Map
from efficientformer.profile.result import BlockTime
from efficientformer.runtimes import RUNTIMES


def blocks_alone(network: EfficientFormer, target: Target, where: Map) -> tuple[tuple[BlockTime, ...], float]:
    """Each block of a network of ours timed alone in its deployed form, less an all but empty call.

    Equal blocks are timed once and share a receipt.

    Returns:
        the blocks, and what the empty call takes.
    """
    layers = network.architecture.layers()
    receipts = measure_layers(list(dict.fromkeys(layers)), target)
    call_ms = receipts[CALL].median_ms
    times = [max(0.0, receipts[layer.key()].median_ms - call_ms) for layer in layers]
    total = sum(times) or 1.0
    pairs = zip(where.pieces, layers, times, strict=True)
    return tuple(
        BlockTime(piece, ms, ms / total, 0, receipt=receipts[layer.key()]) for piece, layer, ms in pairs
    ), call_ms


def cannot(subject: Subject, target: Target, why: str) -> InputError:
    """Why a foreign network has no profile there, and where it would have one."""
    others = [name for name, one in RUNTIMES.items() if name != target.runtime and one.trouble() is None]
    if subject.build is None:
        others = [name for name in others if name in subject.files]
    instead = f"; --target {', '.join(others)} can profile it" if others else "; it runs nowhere else"
    return InputError(f"{subject.name}: {why}{instead}")
