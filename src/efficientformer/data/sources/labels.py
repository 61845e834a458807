"""Data sets that give class numbers and not folders: their classes named, their parts told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from efficientformer.data.sources.apart import apart
from efficientformer.data.sources.base import Source
from efficientformer.data.sources.folder import SHARE_VAL
from efficientformer.data.sources.picked import Picked
from efficientformer.errors import InputError

PART_FOLDERS = ("train", "val", "validation", "test")
_NAME_FILES = ("classes.txt", "classnames.txt", "labels.txt")
_PARTS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])"),
    "val": re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])"),
}


def by_part(root: Path, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files for training, and files for validation (those for tests, if there are no others).

    Told by the folder they are in, else by their names; without either, all are for training.

    Raises:
        InputError: if a file cannot be told, or none is for training.
    """
    parts: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "": []}
    for file in files:
        folder = file.parent.name if file.parent != root else ""
        parts[_part_of(folder) or _part_of(file.stem)].append(file)
    loose = parts.pop("")
    if loose and any(parts.values()):
        raise InputError(f"{loose[0]}: is it for training or validation? Say train or val in its name")
    if not (loose or parts["train"]):
        raise InputError(f"{root}: holds no training files; expected train in some file's or folder's name")
    return loose or parts["train"], parts["val"] or parts["test"]


def _part_of(name: str) -> str:
    found = [part for part, pattern in _PARTS.items() if pattern.search(name.lower())]
    if len(found) > 1:
        raise InputError(f"{name}: is it for {' or '.join(found)}? Its name says each")
    return found[0] if found else ""


def names_beside(root: Path) -> tuple[str, ...]:
    """The classes' names from a text file beside the data, one a line; empty if there is none."""
    for folder in (root, root / "train", root / "data"):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                lines = (folder / name).read_text(encoding="utf-8-sig", errors="replace").splitlines()
                return tuple(line.strip() for line in lines if line.strip())
    return ()


def classes_of(
    root: Path, declared: Sequence[str], train: Iterable[int], val: Iterable[int] | None
) -> tuple[str, ...]:
    """The classes' names: the declared ones, or "0", "1", ….

    Raises:
        InputError: if a class number has no name, or without names if the numbers leave gaps or training and
            validation have other ones.
    """
    learnt = set(train)
    judged = learnt if val is None else set(val)
    if declared:
        if foreign := sorted((learnt | judged) - set(range(len(declared)))):
            raise InputError(f"{root}: class number {foreign[0]}, but {len(declared)} classes have names")
    elif gaps := sorted(learnt ^ set(range(len(learnt)))):
        raise InputError(
            f"{root}: training has {len(learnt)} classes and they are not 0 to {len(learnt) - 1} (see "
            f"{gaps[0]}); number them so, or name them in classes.txt"
        )
    elif uneven := sorted(learnt ^ judged):
        raise InputError(f"{root}: class {uneven[0]} is in training or validation alone")
    if len(learnt) < 2:
        raise InputError(f"{root}: holds one class only; at least two are needed")
    return tuple(declared) or tuple(str(number) for number in range(len(learnt)))


def set_apart(source: Source, seed: int) -> tuple[Source, Source]:
    """A source in two, class by class: the rest, and the share for validation (one of each at least)."""
    rest, taken = apart(source.labels, SHARE_VAL, seed)
    learnt = {source.labels[index] for index in rest}
    for index in taken:
        if source.labels[index] not in learnt:
            raise InputError(f"{source.name(index)}: its class has too few pictures to set some apart")
    return Picked(source, sorted(rest)), Picked(source, sorted(taken))
