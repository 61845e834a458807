"""What OpenVINO's performance counters say of a compiled model.

A counter gives the mean of all runs since the model was compiled, in whole microseconds, each run cut down to
whole ones before. So an operator's time is low by about 1 µs, and short ones come out as nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from efficientformer.runtimes.base import Operator
from efficientformer.runtimes.openvino.model import node_name, original_names, sources

_WARM_UP = 2  # runs that are taken out; the first one packs weights
_CONVERSIONS = ("Reorder", "Convert", "FakeQuantize", "Quantize")


def mean_ms(compiled: Any, run: Callable[[], object], runs: int, whole_ms: list[float]) -> list[float]:
    """Each node's mean milliseconds over some runs after warm-up; every run's whole goes to `whole_ms`."""
    for _ in range(_WARM_UP):
        run()
    before = _mean_us(compiled)
    for _ in range(runs):
        start = time.perf_counter()
        run()
        whole_ms.append((time.perf_counter() - start) * 1e3)
    pairs = zip(before, _mean_us(compiled), strict=True)
    return [max(0, after * (_WARM_UP + runs) - warm * _WARM_UP) / runs / 1e3 for warm, after in pairs]


def operators(compiled: Any, profiles: Sequence[Sequence[float]]) -> tuple[Operator, ...]:
    """The operators that took time, each with the median of its means from several profiles."""
    nodes = _nodes(compiled)
    timed = zip(nodes, sources(nodes), zip(*profiles, strict=True), strict=True)
    listed = [_operator(node, source, statistics.median(means)) for node, source, means in timed]
    return tuple(one for one in listed if one.ms > 0)


def _nodes(compiled: Any) -> list[Any]:
    """What runs in each inference, in order: not what only prepares constants, once."""
    nodes, constant = [], set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind, feeds = _told(node, "layerType"), [node_name(value.get_node()) for value in node.input_values()]
        if kind == "Const" or (feeds and constant.issuperset(feeds)):
            constant.add(node_name(node))
        elif kind not in ("Input", "Output"):
            nodes.append(node)
    return sorted(nodes, key=lambda node: int(_told(node, "execOrder")))


def _mean_us(compiled: Any) -> list[int]:
    told = [_told(node, "execTimeMcs") for node in _nodes(compiled)]
    return [int(one) if one.isdigit() else 0 for one in told]


def _told(node: Any, key: str) -> str:
    return node.get_rt_info()[key].astype(str)


def _operator(node: Any, source: str, ms: float) -> Operator:
    kind = _told(node, "layerType")
    kernel = f"{_told(node, 'primitiveType')} {_told(node, 'outputLayouts')}"
    names = original_names(node)
    fused = f", with {', '.join(names[1:])}" if len(names) > 1 else ""
    rounds = all("/fq_" in name for name in names)  # as NNCF names them
    role = "convert" if kind in _CONVERSIONS or rounds or not names[0] else "compute"
    return Operator(node_name(node), kind, ms, source, kernel + fused, role)
