"""Tensors in and out of files. Nothing is unpickled but by torch's `weights_only` loader.

safetensors   ours, timm's, transformers'; a JSON document may stand in the header
.pth, .bin    what `torch.save` wrote: a state dict, or one under "model" or "state_dict"
"""

from __future__ import annotations

import argparse
import io
import json
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from efficientformer.errors import InputError
from efficientformer.files import write_atomically

_ALLOWED = {
    "collections OrderedDict",
    "argparse Namespace",
    "torch Size",
    "torch.storage UntypedStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short")),
    *(f"torch {kind}Storage" for kind in ("Char", "Byte", "Bool", "ComplexFloat", "ComplexDouble")),
}
"""What a pickle of tensors needs. torch's own list is longer; some of what is on it takes memory at will."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        InputError: if it cannot be read, is damaged, unpacks to more than it is, or holds something other
            than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            document = torch.load(_checked(path), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except zipfile.BadZipFile:
        raise InputError(
            f"{path}: cannot be read as weights (no zip archive); is it complete, and of torch 1.6 or later?"
        ) from None
    except Exception as error:  # damage shows as whatever error it leads to
        raise unreadable(path, error) from None
    tensors = document if isinstance(document, dict) else {}
    tensors = tensors.get("model", tensors.get("state_dict", tensors))
    if not isinstance(tensors, dict) or not tensors or not all(map(_is_named_tensor, tensors.items())):
        raise InputError(f"{path}: holds no state dict of tensors")
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > size:  # a few numbers spread over a huge shape
            raise InputError(f"{path}: {name} claims to be {tuple(tensor.shape)}, more than the file holds")
    return tensors


def _checked(path: Path) -> io.BytesIO:
    """A `torch.save` archive copied entry by entry, so that torch reads what was checked here and no more.

    `torch.save` does not compress: an archive that unpacks to more than itself is not one of its. Its pickles
    may name tensors and their storages, nothing else. Archives of torch before 1.6 were no zip files.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(clean, "w") as copy:
        unpacked, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
        if unpacked > size:
            raise InputError(f"{path}: unpacks to {unpacked} bytes from {size}; no file of torch.save does")
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith(".pkl"):
                _check_pickle(path, content)
            copy.writestr(entry.filename, content)
    clean.seek(0)
    return clean


def _check_pickle(path: Path, content: bytes) -> None:
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(content):
        if "UNICODE" in opcode.name:
            strings.append(str(argument))
        if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4") or (
            opcode.name == "GLOBAL" and argument not in _ALLOWED
        ):
            what = argument or " ".join(strings[-2:])
            raise InputError(f"{path}: cannot be read as weights: it asks for {what!r}; is it a state dict?")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of any name.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> InputError:
    """One line for a file that is damaged or of another kind."""
    return InputError(f"{path}: cannot be read as weights ({type(error).__name__}); is it complete?")


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with a JSON document in its header."""
    contiguous = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"about": json.dumps(about)}))


def read_about(path: Path) -> dict[str, Any]:
    """The JSON document that `save_tensors` put into the header; empty where there is none.

    Raises:
        InputError: if the file is damaged, or the header holds something else under that name.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: its header does not describe a network")
    return about
