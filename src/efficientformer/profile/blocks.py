"""Which block an operator belongs to, in our names, and what each block is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efficientformer.latency.subjects import Image
from efficientformer.model.network import EfficientFormer
from efficientformer.runtimes import Operator

_NESTED = ("block", "blocks", "layer", "layers", "downsample", "embed")  # named parts of a numbered stage
_WRAPPERS = ("features", "backbone", "trunk", "model", "encoder", "body", "network")


@dataclass(frozen=True)
class Piece:
    """A block as it is known before it is timed.

    Attributes:
        name: `stages.0.blocks.1`.
        kind: `pool`, `attention`, …; of a foreign network the module's class.
        text: kind and shape for people, `pool 48 @56×56`.
        macs: multiply-accumulates for one image; None if they are not known.
    """

    name: str
    kind: str = ""
    text: str = ""
    macs: int | None = None


@dataclass(frozen=True)
class Map:
    """How module paths of an exported network lead to blocks.

    Attributes:
        block_of: the name of the block that a path lies in, and the rest of the path.
        pieces: the blocks known beforehand, in order of execution.
    """

    block_of: Callable[[str], tuple[str, str]]
    pieces: tuple[Piece, ...] = ()


def map_of(network: nn.Module | None, image: Image) -> Map:
    """The map of a network of ours, of a foreign one, or of a file of which nothing else is known."""
    if isinstance(network, EfficientFormer):
        return _ours(network)
    return _theirs(_foreign(network, image)) if network is not None else Map(cut)


def _ours(network: EfficientFormer) -> Map:
    """The folded network is a sequence whose child i is `named_layers()[i]`."""
    named = network.architecture.named_layers()
    names = [name for name, _ in named]

    def block_of(path: str) -> tuple[str, str]:
        index, _, rest = path.partition(".")
        known = index.isdecimal() and int(index) < len(names)
        return (names[int(index)], rest) if known else ("", path)

    return Map(block_of, tuple(Piece(name, layer.kind, str(layer), layer.macs) for name, layer in named))


def _theirs(pieces: Sequence[Piece]) -> Map:
    """A convolution and the batch norm right after it are one block: deployed, they are one operator."""
    merged: list[Piece] = []
    names: dict[str, str] = {}
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and last.kind == "Conv2d" and "BatchNorm" in piece.kind and not piece.macs:
            merged[-1] = dataclasses.replace(last, name=f"{last.name}+{piece.name}", kind="Conv2d, norm")
            names |= dict.fromkeys((last.name, piece.name), merged[-1].name)
        else:
            merged.append(piece)

    def block_of(path: str) -> tuple[str, str]:
        name, rest = cut(path)
        return names.get(name, name), rest

    return Map(block_of, tuple(merged))


def cut(path: str) -> tuple[str, str]:
    """A foreign module path, parted where its block ends: `blocks.2.0`, `layer1.0`, `stages.0.blocks.1`.

    A part's numbers belong to it, and so does the named part that follows in a numbered stage, with its own.
    The stem is one block.
    """
    parts = path.split(".")
    end = 1
    if parts[0] in _WRAPPERS and len(parts) > 1 and not parts[1].isdecimal():
        end = 2
    if parts[end - 1] != "stem":
        first = end
        end = _numbers(parts, end)
        if end > first and end < len(parts) and parts[end] in _NESTED:
            end = _numbers(parts, end + 1)
    return ".".join(parts[:end]), ".".join(parts[end:])


def _numbers(parts: Sequence[str], at: int) -> int:
    while at < len(parts) and parts[at].isdecimal():
        at += 1
    return at


@torch.no_grad()
def _foreign(network: nn.Module, image: Image) -> tuple[Piece, ...]:
    """The blocks of a foreign network: class, shape of what each takes and gives, MACs counted as it runs."""
    modules = {name: part for name, part in network.named_modules() if name and cut(name)[1] == ""}
    shapes: dict[str, str] = {}
    hooks = [part.register_forward_hook(_noted(name, shapes)) for name, part in modules.items()]
    try:
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, *image))
    finally:
        for hook in hooks:
            hook.remove()
    root, counts = type(network).__name__, counter.get_flop_counts()
    return tuple(
        Piece(name, kind, f"{kind} {shapes[name]}", sum(counts.get(f"{root}.{name}", {}).values()) // 2)
        for name, kind in ((name, type(modules[name]).__name__) for name in shapes)
        if not any(other.startswith(f"{name}.") for other in shapes)
    )


def _noted(name: str, shapes: dict[str, str]) -> Callable[..., None]:
    """A hook that writes down the shapes of what a module takes and gives."""

    def note(_: nn.Module, taken: tuple[object, ...], given: object) -> None:
        shown = [
            "×".join(map(str, one.shape[1:])) for one in (*taken[:1], given) if isinstance(one, torch.Tensor)
        ]
        shapes[name] = " → ".join(dict.fromkeys(shown))

    return note


def place(operators: Iterable[Operator], where: Map) -> list[tuple[str, str]]:
    """The block of each operator and the path inside it; ("", "") where it is not known.

    An operator without a module is given to the block whose operators run right before and right after it, if
    blocks run strictly one after another: nothing of another block can then run between them.
    """
    found = [where.block_of(one.source) if one.source else ("", "") for one in operators]
    names = [name for name, _ in found]
    if _in_turn([name for name in names if name]):
        for index, (before, after) in enumerate(_neighbours(names)):
            if not names[index] and before and before == after:
                found[index] = (before, "")
    return found


def _in_turn(names: Sequence[str]) -> bool:
    """Whether each block's operators run without another block's between them."""
    turns = [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]
    return len(turns) == len(set(turns))


def _neighbours(names: Sequence[str]) -> list[tuple[str, str]]:
    """The nearest known names before and after each place."""
    before, after = list(names), list(names)
    for index in range(1, len(names)):
        before[index] = names[index] or before[index - 1]
        after[-index - 1] = names[-index - 1] or after[-index]
    return list(zip(before, after, strict=True))
