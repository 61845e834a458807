"""Files of weights as `torch.save` and safetensors would not write them, byte by byte."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tests.strategies import randomised, tiny

Tensors = dict[str, Tensor]
STEM = "stem.conv1.weight"
BIASES = "stages.3.blocks.1.token_mixer.attention_biases"


def good() -> Tensors:
    """The state dict of the tiny network, that every attack spoils somewhere."""
    return dict(randomised(tiny(), seed=1).state_dict())


def legacy_file(path: Path, pickled: bytes) -> None:
    """A file of `torch.save` as it was before torch 1.6: pickles one behind the other."""
    parts = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts) + pickled + pickle.dumps([], 2))


def zip_file(path: Path, pickled: bytes, records: Mapping[str, bytes], compression: int = 0) -> None:
    """A file of `torch.save` with that pickle and those storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for key, content in records.items():
            archive.writestr(f"archive/data/{key}", content)


def pickle_of_tensor(name: str, numbers: int, shape: tuple[int, ...], *more: None) -> bytes:
    """A pickled dictionary of one tensor over a storage that is said to hold so many numbers."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> tuple[Any, ...] | None:
            stored = ("storage", torch.FloatStorage, "0", "cpu", numbers, *more)
            return stored if isinstance(value, Storage) else None

    strides = torch.empty(shape, device="meta").stride()
    call = Call(torch._utils._rebuild_tensor_v2, Storage(), 0, shape, strides, False, OrderedDict())
    out = io.BytesIO()
    Pickler(out, 2).dump({name: call})
    return out.getvalue()


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


def two_directories(path: Path) -> None:
    """Give a zip archive a second, innocent directory, before the end record that points to the first.

    Readers differ in which of the two they take: Python's the one before the end record, torch's the one it
    points to.
    """
    raw = path.read_bytes()
    end = raw.rfind(b"PK\5\6")
    size, start = struct.unpack("<LL", raw[end + 12 : end + 20])
    innocent, position = bytearray(raw[start : start + size]), 0
    while position < size:
        innocent[position + 20 : position + 28] = struct.pack("<LL", 1, 1)  # compressed, unpacked
        position += 46 + sum(struct.unpack("<HHH", innocent[position + 28 : position + 34]))
    path.write_bytes(raw[:end] + innocent + raw[end:])


def overwritten(path: Path, mark: bytes, offset: int, value: bytes) -> None:
    """Overwrite bytes at an offset behind every mark."""
    raw, position = bytearray(path.read_bytes()), -1
    while (position := raw.find(mark, position + 1)) >= 0:
        raw[position + offset : position + offset + len(value)] = value
    path.write_bytes(raw)


def safetensors_file(path: Path, header: object, body: bytes = b"", length: int | None = None) -> None:
    """A safetensors file with that header (raw where it is bytes), said to be of that length."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + body)


def with_about(path: Path, about: str) -> None:
    """The good weights, with that text in the header instead of our document."""
    path.write_bytes(save(good(), metadata={"about": about}))


def with_architecture(path: Path, *where: str | int, value: Any) -> None:
    """The good weights, their architecture changed at one place of its document."""
    document = tiny().to_json()
    place: Any = document
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    with_about(path, json.dumps({"architecture": document}))


def quietly(make: Callable[[], Tensor]) -> Tensor:
    """What a function gives, without torch's warnings of unstable number types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()
