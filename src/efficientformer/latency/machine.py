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

_CPUS = Path("/sys/devices/system/cpu")
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
    """Processor time since the system started, in seconds, over the processors we may use."""

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
    busy = stolen = 0
    for line in stat.read_text().splitlines():
        name, *figures = line.split()
        if name.removeprefix("cpu").isdecimal() and int(name[3:]) in os.sched_getaffinity(0):
            user, nice, system, _, _, irq, softirq, given_away = map(int, figures[:8])
            busy, stolen = busy + user + nice + system + irq + softirq, stolen + given_away
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


def cpus_for(threads: int) -> list[int]:
    """The processors that so many threads are kept on: one of each core, the fastest cores first.

    Of equal ones the last, as the first serve interrupts. Empty, which is no choice, where the system does
    not let a process choose, or has fewer.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    one_per_core = {_core(cpu): cpu for cpu in sorted(os.sched_getaffinity(0))}
    ranked = sorted(one_per_core.values(), key=lambda cpu: (_top_khz(cpu), cpu))
    return sorted(ranked[-threads:]) if threads <= len(ranked) else []


def private_cache_bytes() -> int:
    """The largest cache that a core has for itself; 1 MiB where the system does not tell."""
    sizes = []
    for cache in sorted(_CPUS.glob("cpu0/cache/index*")):
        shared = _read(cache / "shared_cpu_list")
        size = _read(cache / "size").removesuffix("K")
        if size.isdecimal() and shared in ("0", _core(0)):
            sizes.append(1024 * int(size))
    return max(sizes, default=2**20)


def _core(cpu: int) -> str:
    """What tells a core from the others; the processors of one core have the same siblings."""
    return _read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _top_khz(cpu: int) -> int:
    return int(_read(_CPUS / f"cpu{cpu}/cpufreq/cpuinfo_max_freq") or 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def _processor() -> str:
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, _, value in lines}
    board = _read(Path("/proc/device-tree/model"))  # ARM boards give no model name of their processor
    name = facts.get("model name") or board or platform.processor() or platform.machine()
    telling = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU revision")
    numbers = [f"{key} {facts[key]}" for key in telling if key in facts]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _governor() -> str:
    cpu = max(cpus_for(1), default=0)
    return _read(_CPUS / f"cpu{cpu}/cpufreq/scaling_governor") or "not shown by the system"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "not shown by the system"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
