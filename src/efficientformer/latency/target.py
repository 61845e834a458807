"""Where time is measured: a `Target`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from efficientformer.errors import InputError
from efficientformer.runtimes import RUNTIMES, Settings


@dataclass(frozen=True)
class Target:
    """A runtime on a device, written `RUNTIME[:DEVICE][:threads=N][:precision=P]`.

    Attributes:
        runtime: a name in `runtimes.RUNTIMES`.
        device: `cpu`, or another that the runtime knows.
        threads: how many threads one inference may use.
        precision: of weights and activations: `fp32`, `fp16`, `bf16` or `int8`.
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
        if self.runtime not in RUNTIMES:
            known = ", ".join(RUNTIMES)
            raise InputError(f"target {text!r}: unknown runtime {self.runtime!r}; known: {known}")
        runtime = RUNTIMES[self.runtime]
        for what, value, known in (
            ("device", self.device, runtime.devices),
            ("precision", self.precision, runtime.precisions),
        ):
            if value not in known:
                raise InputError(f"target {text!r}: {self.runtime} knows {what} {', '.join(known)} only")
        return self

    def under(self, precision: str) -> Target:
        """The same in another precision.

        Raises:
            InputError: if the runtime has not got it.
        """
        other = dataclasses.replace(self, precision=precision)
        return other._checked(other.short)

    def file_name(self, stem: str) -> str:
        """What a file for it is called: `model.onnx`, `model.int8.onnx`."""
        precision = "" if self.precision == "fp32" else f".{self.precision}"
        return f"{stem}{precision}{RUNTIMES[self.runtime].suffix}"

    @property
    def settings(self) -> Settings:
        """How the runtime is to run a file."""
        return Settings(self.device, self.threads, self.precision)

    @property
    def short(self) -> str:
        """As a person would write it: without what is usual."""
        usual = {"device": "cpu", "threads": 1, "precision": "fp32"}
        device = "" if self.device == usual["device"] else f":{self.device}"
        options = {"threads": self.threads, "precision": self.precision}
        told = "".join(f":{key}={value}" for key, value in options.items() if value != usual[key])
        return f"{self.runtime}{device}{told}"

    def __str__(self) -> str:
        return f"{self.runtime}:{self.device}:threads={self.threads}:precision={self.precision}"


def _positive(text: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"target {text!r}: threads must be a whole number from 1, not {number!r}")
    return int(number)
