"""What commands share: options, and how a result becomes a JSON document."""

from __future__ import annotations

import json
from typing import Annotated, Any

from cyclopts import Parameter

from efficientformer.errors import InputError

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document and no table.")]
TargetText = Annotated[
    str, Parameter(name="--target", help="Where to measure: RUNTIME[:DEVICE][:threads=N][:precision=P].")
]
Targets = Annotated[
    list[str],
    Parameter(name="--target", negative="", help="Where: RUNTIME[:DEVICE][:threads=N][:precision=P]."),
]
DEFAULT_TARGET = "onnxruntime:cpu:threads=1"


def names(text: str) -> tuple[str, ...]:
    """The names between an option's commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """The whole numbers between an option's commas.

    Raises:
        InputError: naming the option, if they are none.
    """
    try:
        return tuple(map(int, names(text)))
    except ValueError:
        raise InputError(f"--{option} {text!r}: give whole numbers with commas between") from None


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False))
