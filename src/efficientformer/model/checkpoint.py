"""Weights into a network and out of it: our own files, and the three published layouts (`layouts.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.model import layouts
from efficientformer.model.blocks.bias import Grid, resize_bias
from efficientformer.model.network import EfficientFormer, check_whole
from efficientformer.model.pretrained import pretrained_cfg
from efficientformer.model.weights import read_about, read_tensors, save_tensors

_DERIVED = ("attention_bias_idxs", "num_batches_tracked")  # made anew, not weights
_PREFIX = "efficientformer."  # transformers' classifiers put it before everything but the heads
_HEADS = tuple(f"head.{part}.{end}" for part in ("classifier", "distillation") for end in ("weight", "bias"))
_WRAPPERS = ("module.", "_orig_mod.", _PREFIX)


def load_checkpoint(
    model: EfficientFormer, source: Path | str | Mapping[str, Tensor], *, keep_classifiers: bool = False
) -> None:
    """Load weights in place: ours, or in the authors', timm's or transformers' layout, told by their names.

    The attention-bias tables are interpolated where the checkpoint is of another resolution. A network with
    one classifier takes the mean of a checkpoint's two, which is what two give in evaluation.

    Args:
        model: the network to fill.
        source: a `.safetensors`, `.pth` or `.bin` file, or a state dict.
        keep_classifiers: leave the network's own classifiers as they are.

    Raises:
        InputError: naming the first entry that is missing, unknown or of the wrong shape. The network is then
            as it was.
    """
    if isinstance(source, Mapping):
        fill(model, Checkpoint(dict(source)), keep_classifiers=keep_classifiers)
    else:
        fill_from(model, Path(source), read_checkpoint(Path(source)), keep_classifiers=keep_classifiers)


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: by the file's own names.
        grids: of the attention-bias tables by our names of their layers, as far as the file says.
    """

    tensors: dict[str, Tensor]
    grids: dict[str, Grid] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights of a file.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    tensors = read_tensors(path)
    return Checkpoint(tensors, _grids(saved_architecture(path)))


def fill_from(model: EfficientFormer, path: Path, weights: Checkpoint, *, keep_classifiers: bool) -> None:
    """`fill`, naming the file the weights are of in errors."""
    try:
        fill(model, weights, keep_classifiers=keep_classifiers)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def fill(model: EfficientFormer, weights: Checkpoint, *, keep_classifiers: bool = False) -> None:
    """`load_checkpoint` of weights that were read already."""
    check_whole(model)
    tensors = _unwrapped(weights.tensors)
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(_DERIVED)}
    layout = layouts.recognise(tensors)
    names = _their_names(model.architecture, {*wanted, *_HEADS}, layout)
    if keep_classifiers or not model.num_classes:
        for head in _HEADS:
            tensors.pop(names[head], None)
            wanted.pop(head, None)
    elif not model.architecture.distilled:
        _average(tensors, names)
    names = {name: names[name] for name in wanted}
    _check_names(set(tensors), set(names.values()))
    grids, filled = _grids(model.architecture), {}
    for name, called in names.items():
        tensor = _plain(called, tensors[called])
        if name.endswith("attention_biases"):
            layer = _layer_of(name, grids)
            tensor = _resized(called, tensor, grids[layer], weights.grids.get(layer))
        filled[name] = _shaped(called, tensor, wanted[name].shape)
    model.load_state_dict(filled, strict=False)


def to_layout(model: EfficientFormer, layout: layouts.Layout) -> dict[str, Tensor]:
    """A network's state dict under the names, and with the very entries, of a published layout.

    Args:
        model: of the first paper's blocks, or of EfficientFormerV2's (no transformers layout exists for it).
            Where the layout's code has two classifiers always, a single one is written twice. timm builds
            the first paper's networks for 224 px only: call `set_input_size(224)` before.
        layout: `official` (the authors'; their files hold it under "model"), `timm` or `transformers`.

    Raises:
        InputError: if the layout's code has no such network.
    """
    check_whole(model)
    entries = dict(model.state_dict())
    if layout != "transformers":  # it alone has networks of one classifier; twice the same one is the same
        entries |= {
            second: entries[first]
            for first, second in zip(_HEADS[:2], _HEADS[2:], strict=True)
            if first in entries and second not in entries
        }
    if layouts.has_indices(model.architecture, layout):
        entries |= {name: buffer for name, buffer in model.named_buffers() if name.endswith(_DERIVED[0])}
    names = layouts.names(model.architecture, entries, layout)
    axes = (1,) * layouts.scale_axes(model.architecture, layout)
    renamed = {}
    for name, tensor in entries.items():
        called = names[name]
        if layout == "transformers" and not name.startswith(("head.classifier", "head.distillation")):
            called = _PREFIX + called
        is_scale = name.endswith(".gamma")
        renamed[called] = tensor.detach().view(-1, *axes) if is_scale else tensor.detach()
    return renamed


def _their_names(
    architecture: Architecture, wanted: Iterable[str], layout: layouts.Layout | None
) -> dict[str, str]:
    if layout is None:
        return {name: name for name in wanted}
    return layouts.names(architecture, wanted, layout)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by their names without what wrappers put before them."""
    unwrapped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name
        while plain.startswith(_WRAPPERS):
            plain = plain.split(".", 1)[1]
        if plain.endswith(_DERIVED):
            continue
        if plain in unwrapped:
            raise InputError(f"checkpoint: {name!r} is there twice, with and without a wrapper's prefix")
        unwrapped[plain] = tensor
    return unwrapped


def _average(tensors: dict[str, Tensor], names: Mapping[str, str]) -> None:
    """The mean of two classifiers for a network that has one."""
    for first, second in zip(_HEADS[:2], _HEADS[2:], strict=True):
        one, other = tensors.get(names[first]), tensors.get(names[second])
        if one is not None and other is not None and one.shape == other.shape:
            tensors[names[first]] = (one + other) / 2
            del tensors[names[second]]


def saved_architecture(path: Path) -> Architecture | None:
    """The architecture in the header of a file that `save_model` wrote.

    Raises:
        InputError: if it describes no network.
    """
    if path.suffix != ".safetensors":
        return None
    document = read_about(path).get("architecture")
    try:
        return Architecture.from_json(document) if document else None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _grids(architecture: Architecture | None) -> dict[str, Grid]:
    if architecture is None:
        return {}
    return {name: layer.bias_grid for name, layer in architecture.named_layers() if layer.bias_grid}


def _layer_of(name: str, layers: Mapping[str, Grid]) -> str:
    return next(layer for layer in layers if name.startswith(f"{layer}."))


def _check_names(given: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - given):
        raise InputError(f"checkpoint: {len(missing)} tensors are missing, the first is {missing[0]}")
    if unknown := sorted(given - wanted):
        raise InputError(f"checkpoint: {len(unknown)} tensors are unknown, the first is {unknown[0]}")


def _plain(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        kind = "on meta" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        raise InputError(f"checkpoint: {name} is no plain array of floats ({kind})")
    return tensor


def _resized(name: str, table: Tensor, grid: Grid, own: Grid | None) -> Tensor:
    if table.ndim != 2:
        raise InputError(f"checkpoint: {name} is {tuple(table.shape)}, not a table (heads, H·W)")
    try:
        return resize_bias(table, grid, own)
    except InputError as error:
        raise InputError(f"checkpoint: {name}: {error}") from None


def _shaped(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor, without axes of length 1 behind a LayerScale's channels."""
    scale = len(shape) == 1 and tensor.shape == (*shape, 1, 1)
    if tensor.shape != shape and not scale:
        raise InputError(f"checkpoint: {name} is {tuple(tensor.shape)}, this network needs {tuple(shape)}")
    return tensor.reshape(shape)


def save_model(path: Path | str, model: EfficientFormer) -> None:
    """A network's weights with its architecture, in one safetensors file.

    Raises:
        InputError: if the file would have another ending, or the network is a part of one only.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{path}: networks are saved as .safetensors")
    check_whole(model)
    save_tensors(Path(path), model.state_dict(), {"architecture": model.architecture.to_json()})


def load_model(path: Path | str) -> EfficientFormer:
    """The network that `save_model` wrote, of the number type it had, in evaluation mode.

    Raises:
        InputError: if the file is not one of those.
    """
    path = Path(path)
    tensors = read_tensors(path)
    architecture = saved_architecture(path)
    if architecture is None:
        raise InputError(f"{path}: has no architecture in its header; it was not written by efficientformer")
    if architecture.params > sum(tensor.numel() for tensor in tensors.values()):
        raise InputError(f"{path}: its header describes {architecture.params} parameters, it holds fewer")
    norm = tensors.get("head.norm.weight")
    model = EfficientFormer(architecture).to(torch.float32 if norm is None else norm.dtype)
    load_checkpoint(model, tensors)
    model.pretrained_cfg = pretrained_cfg(architecture)
    return model.eval()
