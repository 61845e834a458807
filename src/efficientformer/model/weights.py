"""Tensors in and out of files. Nothing is unpickled but by torch's `weights_only` loader.

safetensors   ours, timm's, transformers'; a JSON document may stand in the header
.pth, .bin    what `torch.save` wrote: a state dict, or one under "model" or "state_dict"
"""

from __future__ import annotations

import json
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
    size = path.stat().st_size
    _refuse_bomb(path, size)
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as whatever error it leads to
        raise unreadable(path, error) from None
    tensors = document if isinstance(document, dict) else {}
    tensors = tensors.get("model", tensors.get("state_dict", tensors))
    if not isinstance(tensors, dict) or not tensors or not all(map(_is_named_tensor, tensors.items())):
        raise InputError(f"{path}: holds no state dict of tensors")
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > size:  # a few numbers spread over a huge shape
            raise InputError(f"{path}: {name} claims to be {tuple(tensor.shape)}, more than the file holds")
    return tensors


def _refuse_bomb(path: Path, size: int) -> None:
    """`torch.save` does not compress, so an archive that unpacks to more than itself is not one of its."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if unpacked > size:
        raise InputError(f"{path}: unpacks to {unpacked} bytes from {size}; no file of torch.save does")


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
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: its header does not describe a network")
    return about
