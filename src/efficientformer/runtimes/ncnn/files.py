"""ncnn's graph files: text, one layer a line: type, name, how many blobs in and out, their names, pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.errors import InputError

MAGIC = "7767517"  # the first line of every graph
CARRIERS = ("Input", "MemoryData", "Split")  # compute nothing
SIDES = ("2", "1", "0")  # an input layer's channels, height, width; of fewer dimensions, the last
OUTPUT = "-23320"  # where ours keep the output's shape: an array that ncnn's input layer takes no notice of


@dataclass(frozen=True)
class Line:
    """One layer of a graph.

    Attributes:
        kind: its type, as ncnn calls it.
        name: its name. Ours are `<module path>/<pnnx's name>`, or pnnx's alone where the module is not known.
        bottoms: names of the blobs that it takes.
        tops: names of the blobs that it gives.
        parameters: by their number; what they mean depends on the type.
    """

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: dict[str, str]

    @property
    def computes(self) -> bool:
        """Whether there is any work in it."""
        return self.kind not in CARRIERS

    def __str__(self) -> str:
        blobs = (*self.bottoms, *self.tops)
        pairs = (f"{key}={value}" for key, value in self.parameters.items())
        counts = (str(len(self.bottoms)), str(len(self.tops)))
        return " ".join((self.kind, self.name, *counts, *blobs, *pairs))


def weights(path: Path) -> Path:
    """The file of weights that belongs to a graph."""
    return path.with_suffix(".bin")


def read(path: Path) -> list[Line]:
    """A graph's layers.

    Raises:
        InputError: if it is not a whole graph with its weights beside it.
    """
    for file in (path, weights(path)):
        if not file.is_file():
            raise InputError(f"{file}: no such file; ncnn's networks are a .param and a .bin beside it")
    try:
        first, counts, *lines = path.read_text(encoding="utf-8").splitlines()
        layers = [_line(line.split()) for line in lines if line.strip()]
        whole = first.strip() == MAGIC and int(counts.split()[0]) == len(layers)
        whole = whole and any(layer.kind == "Input" for layer in layers)
    except (ValueError, IndexError):  # text of another kind, or no text
        whole, layers = False, []
    if not whole:
        raise InputError(f"{path}: not a whole ncnn graph")
    return layers


def write(path: Path, layers: list[Line]) -> None:
    """Write a graph."""
    blobs = sum(len(layer.tops) for layer in layers)
    head = (MAGIC, f"{len(layers)} {blobs}")
    path.write_text("\n".join((*head, *map(str, layers))) + "\n", encoding="utf-8")


def unknown(layers: list[Line], ncnn: Any) -> list[str]:
    """The types of layers that the installed ncnn does not have, pnnx's own leftovers last."""
    kinds = {layer.kind for layer in layers if ncnn.layer_to_index(layer.kind) == -1}
    return sorted(kinds, key=lambda kind: (kind.startswith("pnnx."), kind))


def end_shapes(given: Sequence[int], made: Sequence[int]) -> dict[str, str]:
    """The input's and the output's shapes, batches of 1 first, as parameters of the input layer."""
    sides = zip(SIDES[len(SIDES) + 1 - len(given) :], given[1:], strict=True)
    return {key: str(side) for key, side in sides} | {OUTPUT: ",".join(map(str, (len(made), *made)))}


def input_shape(layers: list[Line]) -> tuple[int, ...]:
    """The input's shape, batch first; zeros if the graph does not tell."""
    given = next(layer.parameters for layer in layers if layer.kind == "Input")
    sides = [int(given[key]) for key in SIDES if key in given]
    return (1, *(sides or (0, 0, 0)))


def output_shape(layers: list[Line]) -> tuple[int, ...] | None:
    """The output's shape, batch first; None if the graph is not one of ours."""
    given = next(layer.parameters for layer in layers if layer.kind == "Input").get(OUTPUT)
    return tuple(int(side) for side in given.split(",")[1:]) if given else None


def _line(words: list[str]) -> Line:
    first, second = 4 + int(words[2]), 4 + int(words[2]) + int(words[3])
    if len(words) < second:
        raise ValueError("a layer lacks blobs")
    pairs = (word.split("=", 1) for word in words[second:])
    return Line(words[0], words[1], tuple(words[4:first]), tuple(words[first:second]), dict(pairs))
