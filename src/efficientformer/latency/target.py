"""Where time is measured: a `Target`, and the fingerprint of the machine behind it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from efficientformer.errors import InputError
from efficientformer.latency import runtimes


@dataclass(frozen=True)
class Target:
    """A runtime on a device, written `RUNTIME[:DEVICE][:threads=N][:precision=P]`.

    Attributes:
        runtime: a name in `runtimes.RUNTIMES`.
        device: `cpu`.
        threads: how many threads one inference may use.
        precision: of weights and activations; `fp32`.
    """

    runtime: str = "onnxruntime"
    device: str = "cpu"
    threads: int = 1
    precision: str = "fp32"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read a target.

        Raises:
            InputError: for an unknown runtime, device, option or value, naming the known ones.
        """
        name, *rest = text.split(":")
        device = rest.pop(0) if rest and "=" not in rest[0] else "cpu"
        options = {"threads": "1", "precision": "fp32"}
        for option in rest:
            key, _, value = option.partition("=")
            if key not in options:
                raise InputError(f"target {text!r}: unknown option {option!r}; known: threads=N, precision=P")
            options[key] = value
        return cls(name, device, _positive(text, options["threads"]), options["precision"])._checked(text)

    def _checked(self, text: str) -> Target:
        if self.runtime not in runtimes.RUNTIMES:
            known = ", ".join(runtimes.RUNTIMES)
            raise InputError(f"target {text!r}: unknown runtime {self.runtime!r}; known: {known}")
        runtime = runtimes.RUNTIMES[self.runtime]
        for what, value, known in (
            ("device", self.device, runtime.devices),
            ("precision", self.precision, runtime.precisions),
        ):
            if value not in known:
                raise InputError(
                    f"target {text!r}: {self.runtime} runs here on {what} {', '.join(known)} only"
                )
        return self

    def __str__(self) -> str:
        return f"{self.runtime}:{self.device}:threads={self.threads}:precision={self.precision}"


def _positive(text: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"target {text!r}: threads must be a whole number from 1, not {number!r}")
    return int(number)


def fingerprint(target: Target) -> dict[str, str]:
    """What must be the same for two latencies to be comparable: processor, system, runtime, exporter."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": f"{target.runtime} {runtimes.RUNTIMES[target.runtime].version()}",
        "exporter": f"torch {torch.__version__}",
    }


def _processor() -> str:
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts]
    return f"{name} ({', '.join(numbers)})" if numbers else name
