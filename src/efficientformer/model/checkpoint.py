"""Weights in and out: our own files (safetensors), and published layouts under other names.

Nothing is unpickled: `.pth` files are read by torch's `weights_only` loader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.model.network import EfficientFormer

_TIMM = (
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.classifier.\1"),
    (r"^head_dist\.", "head.distillation."),
    (r"^(stages\.\d+)\.downsample\.", r"\1.embed."),
)
_DERIVED = ("attention_bias_idxs", "num_batches_tracked")  # made anew, not weights


def load_checkpoint(model: EfficientFormer, source: Path | str | Mapping[str, Tensor]) -> None:
    """Load weights into a network: ours, or those of timm's EfficientFormer.

    The attention-bias table is interpolated where the checkpoint's resolution is another one.

    Args:
        model: the network to fill, in place.
        source: a `.safetensors`, `.pth` or `.bin` file, or a state dict.

    Raises:
        InputError: naming the first tensor that is missing, unknown or of the wrong shape.
    """
    given = source if isinstance(source, Mapping) else read_tensors(Path(source))
    theirs = {} if isinstance(source, Mapping) else _grids(_saved_architecture(Path(source)))
    tensors = {k: v for k, v in from_timm(given).items() if not k.endswith(_DERIVED)}
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(_DERIVED)}
    _check_names(set(tensors), set(wanted))
    grids = _grids(model.architecture)
    for name, tensor in tensors.items():
        if name.endswith("attention_biases"):
            if tensor.ndim != 2:
                raise InputError(f"checkpoint: {name} is {tuple(tensor.shape)}, not a table (heads, H·W)")
            block = name.removesuffix(".token_mixer.attention_biases")
            tensors[name] = resize_bias(tensor, grids[block], theirs.get(block))
        if tensors[name].shape != wanted[name].shape:
            have, want = tuple(tensor.shape), tuple(wanted[name].shape)
            raise InputError(f"checkpoint: {name} is {have}, this network needs {want}")
    model.load_state_dict(tensors, strict=False)


def _saved_architecture(path: Path) -> Architecture | None:
    """The architecture in the header of a file that `save_model` wrote."""
    if path.suffix != ".safetensors":
        return None
    document = read_about(path).get("architecture")
    return Architecture.from_json(document) if document else None


def _grids(architecture: Architecture | None) -> dict[str, tuple[int, int]]:
    if architecture is None:
        return {}
    return {name: (layer.height, layer.width) for name, layer in architecture.named_layers()}


def _check_names(given: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - given):
        raise InputError(f"checkpoint: {len(missing)} tensors are missing, the first is {missing[0]}")
    if unknown := sorted(given - wanted):
        raise InputError(f"checkpoint: {len(unknown)} tensors are unknown, the first is {unknown[0]}")


def from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for timm's. A state dict that already has ours passes through."""
    if "norm.weight" not in tensors:
        return dict(tensors)
    first = _first_attention(tensors)
    return {_rename(name, first): tensor for name, tensor in tensors.items()}


def _rename(name: str, first_attention: int | None) -> str:
    for pattern, replacement in _TIMM:
        name = re.sub(pattern, replacement, name)
    match = re.match(r"stages\.3\.blocks\.(\d+)\.(.*)", name)
    if match and first_attention is not None and int(match[1]) >= first_attention:
        return f"stages.3.blocks.{int(match[1]) - 1}.{match[2]}"  # timm counts its Flat module as a block
    return name


def _first_attention(tensors: Mapping[str, Tensor]) -> int | None:
    found = (re.match(r"stages\.3\.blocks\.(\d+)\.token_mixer\.qkv\.weight", name) for name in tensors)
    return min((int(match[1]) for match in found if match), default=None)


def resize_bias(table: Tensor, grid: tuple[int, int], own: tuple[int, int] | None = None) -> Tensor:
    """An attention-bias table (heads, H·W) for another grid; the same one at its own size.

    Offsets are scaled with the resolution (bilinear; offset 0 stays offset 0, the farthest the farthest).

    Args:
        table: as learned.
        grid: (height, width) in tokens it is wanted for.
        own: the grid it was learned on. Where that is unknown, a table of as many entries as are wanted is
            taken to be of the wanted grid, any other of a square one.
    """
    heads, entries = table.shape
    if own is None:
        own = grid if entries == grid[0] * grid[1] else (round(entries**0.5),) * 2
    if own == grid:
        return table
    if own[0] * own[1] != entries:
        raise InputError(f"checkpoint: an attention-bias table of {entries} entries is of no square grid")
    square = table.view(1, heads, *own).float()
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=True)
    return resized.view(heads, -1).to(table.dtype)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        InputError: if it cannot be read, is damaged, or holds something other than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as whatever error it leads to
        raise _unreadable(path, error) from None
    tensors = document if isinstance(document, dict) else {}
    tensors = tensors.get("model", tensors.get("state_dict", tensors))
    if not isinstance(tensors, dict) or not tensors or not all(map(_is_named_tensor, tensors.items())):
        raise InputError(f"{path}: holds no state dict of tensors")
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of any name.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read as weights ({type(error).__name__}); is it complete?")


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with a JSON document in its header."""
    contiguous = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"about": json.dumps(about)}))


def read_about(path: Path) -> dict[str, Any]:
    """The JSON document that `save_tensors` put into the header."""
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("about", "{}"))


def save_model(path: Path | str, model: EfficientFormer) -> None:
    """A network's weights with its architecture, in one safetensors file."""
    save_tensors(Path(path), model.state_dict(), {"architecture": model.architecture.to_json()})


def load_model(path: Path | str) -> EfficientFormer:
    """The network that `save_model` wrote, in evaluation mode.

    Raises:
        InputError: if the file is not one of those.
    """
    path = Path(path)
    tensors = read_tensors(path)
    architecture = _saved_architecture(path)
    if architecture is None:
        raise InputError(f"{path}: has no architecture in its header; it was not written by efficientformer")
    model = EfficientFormer(architecture)
    load_checkpoint(model, tensors)
    return model.eval()
