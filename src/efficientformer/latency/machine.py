"""The machine behind a measurement: what it is, and how busy it was with other things."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES, version

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def fingerprint(target: Target) -> dict[str, str]:
    """What must be the same for two latencies to be comparable: processor, system, runtime, exporter."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "governor": _governor(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": f"{target.runtime} {version(RUNTIMES[target.runtime])}",
        "exporter": f"torch {importlib.metadata.version('torch')}",
    }


@dataclass(frozen=True)
class Ticks:
    """Processor time since the system started, in seconds over all cores."""

    at: float
    busy: float
    stolen: float
    ours: float


@dataclass(frozen=True)
class Bystanders:
    """What the machine did beside a measurement.

    Attributes:
        others_cores: cores that other programs kept busy, on average.
        stolen_cores: cores that the hypervisor gave to others, on average.
        load: the system's own load average of the last minute.
    """

    others_cores: float | None
    stolen_cores: float | None
    load: float


def ticks(pids: Iterable[int] = ()) -> Ticks | None:
    """Now; None where the system does not tell.

    Args:
        pids: processes that count as ours, beside this one.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, stolen = map(int, stat.read_text().split()[1:9])
    busy = user + nice + system + irq + softirq
    ours = sum(map(_used, {os.getpid(), *pids}))
    return Ticks(time.monotonic(), busy / _TICKS, stolen / _TICKS, ours / _TICKS)


def bystanders(before: Ticks | None, after: Ticks | None) -> Bystanders:
    """What happened between two looks."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if before is None or after is None or after.at <= before.at:
        return Bystanders(None, None, round(load, 2))
    seconds = after.at - before.at
    others = max(0.0, (after.busy - before.busy) - (after.ours - before.ours)) / seconds
    return Bystanders(round(others, 3), round((after.stolen - before.stolen) / seconds, 3), round(load, 2))


def _used(pid: int) -> int:
    """Processor time of a process, in ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended
        return 0
    return int(fields[11]) + int(fields[12])


def _processor() -> str:
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else "not shown by the system"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "not shown by the system"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
