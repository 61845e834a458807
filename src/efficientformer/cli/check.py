"""`efficientformer check`: what this machine can do."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import efficientformer
from efficientformer.cli.options import DEFAULT_TARGET, Json, TargetText, print_json
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.measure import measure
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.process import Process
from efficientformer.latency.target import Target
from efficientformer.latency.worker import SENTINEL
from efficientformer.runtimes import RUNTIMES, version
from efficientformer.terminal.table import facts_table, show

ADVICE = {
    "stable": "latencies measured now can be quoted",
    "noisy": "trust differences of more than a quarter only; stop other programs, or measure again later",
    "unusable": "something else is using this machine; measure when it is quiet",
}


def check(*, target: TargetText = DEFAULT_TARGET, as_json: Json = False) -> None:
    """What this machine can do: processor, runtimes, versions, and how noisy its clock is."""
    where = Target.parse(target)
    noise = sentinel_receipt(where)
    facts = {
        **{name: fact for name, fact in fingerprint(where).items() if name != "runtime"},
        **{f"runtime {name}": state(name) for name in RUNTIMES},
        "python": platform.python_version(),
        "torch": f"{importlib.metadata.version('torch')}, up to {os.cpu_count()} threads for training",
        "accelerator": accelerator(),
        "a fixed piece of work": f"{noise}",
        "so": "; ".join((*noise.reasons, ADVICE[noise.verdict])),
    }
    if as_json:
        print_json(facts)
    else:
        show(facts_table(f"efficientformer {efficientformer.__version__}", facts))


def state(name: str) -> str:
    """A runtime's version and precisions, or what keeps it from running here."""
    runtime = RUNTIMES[name]
    trouble = runtime.trouble()
    known = f"{version(runtime)} · {', '.join(runtime.precisions)}"
    return known if trouble is None else trouble


def accelerator() -> str:
    """What torch finds beside the CPU."""
    import torch

    if torch.cuda.is_available():
        return f"cuda, {torch.cuda.get_device_name()}"
    return "mps" if torch.backends.mps.is_available() else "none"


def sentinel_receipt(target: Target) -> Measurement:
    """The fixed piece of work that guards every measurement, itself measured for a second."""
    with Process(None, target) as process:
        turns = {SENTINEL: process.time}
        return measure(turns, target, rounds=20, pids=[process.pid])[SENTINEL]
