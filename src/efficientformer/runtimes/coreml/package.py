"""A Core ML package read: its specification, and what it takes and gives."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.errors import InputError
from efficientformer.runtimes.base import last_line
from efficientformer.runtimes.silence import quiet_python

FLOAT32 = 65568  # its number in a specification


@dataclass(frozen=True)
class About:
    """What a package's specification says of its input and output."""

    input: str
    output: str
    shape: tuple[int, ...]
    float32: bool


def specification(path: Path) -> Any:
    """A package's description and program; the weights stay on the disk.

    Raises:
        InputError: if it is not a package with an ML program.
    """
    if not (path / "Manifest.json").is_file():
        raise InputError(f"{path}: no Core ML package; that is a folder with a Manifest.json")
    with quiet_python():
        utilities = importlib.import_module("coremltools.models.utils")
        try:
            found = utilities.load_spec(str(path))
        except Exception as error:  # protobuf's, json's, or the package reader's
            raise InputError(f"{path}: damaged: {last_line(error)}") from None
    if found.WhichOneof("Type") != "mlProgram" or len(found.description.input) != 1:
        raise InputError(f"{path}: not an ML program with one input")
    return found


def describe(spec: Any) -> About:
    """The input and the first output of a specification."""
    given, made = spec.description.input[0], spec.description.output[0]
    kind = given.type.multiArrayType
    return About(given.name, made.name, tuple(kind.shape), kind.dataType == FLOAT32)
