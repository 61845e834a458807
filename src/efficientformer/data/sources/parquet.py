"""Tables in Hugging Face's form: Parquet files with a column `image` and a column `label`.

Parquet is read by row groups of some hundred pictures; a process keeps those that an order mixes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from efficientformer.data.order import WINDOW
from efficientformer.data.sources.base import Parts
from efficientformer.data.sources.labels import by_part, classes_of, names_beside, set_apart
from efficientformer.errors import InputError

_one_reads = threading.Lock()  # threads that want the same row group wait for it, and do not read it twice


@dataclass(frozen=True)
class Table:
    """One file.

    Attributes:
        path: where it is.
        stamp: its size in bytes and its time of change.
        rows: of each row group.
        sizes: bytes of each row group's pictures, in the file.
    """

    path: Path
    stamp: tuple[int, int]
    rows: tuple[int, ...]
    sizes: tuple[int, ...]


_Opened = tuple[Table, list[Any], tuple[str, ...]]


class Parquet:
    """Tables as a `Source`; each row group is a block.

    Args:
        tables: the files.
        labels: class numbers of all their rows.
    """

    def __init__(self, tables: Sequence[Table], labels: Iterable[int]) -> None:
        self._tables = tuple(tables)
        self.labels: Sequence[int] = array("q", labels)
        groups = [(table, group) for table in tables for group in range(len(table.rows))]
        self._groups = tuple((table, group) for table, group in groups if table.rows[group])
        self._starts = list(accumulate((table.rows[group] for table, group in self._groups), initial=0))
        self.blocks: Sequence[range] = tuple(map(range, self._starts, self._starts[1:]))

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """`table.parquet: row 12`, counted from 0."""
        table, group, place = self._find(index)
        return f"{table.path}: row {sum(table.rows[:group]) + place}"

    def read(self, index: int) -> bytes:
        """The cell's bytes, or the file it names, which lies beside the table."""
        table, group, place = self._find(index)
        with _one_reads:
            cell = _row_group(table.path, table.stamp, group)[place].as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path:
            return (table.path.parent / path).read_bytes()
        if not isinstance(content, bytes):
            raise OSError("the cell is empty" if content is None else "the cell holds no picture's bytes")
        return content

    def digest(self) -> str:
        """Changes with a file's name, its row groups' rows and sizes, and the labels."""
        facts = [(table.path.name, table.rows, table.sizes) for table in self._tables]
        return hashlib.sha256(json.dumps([facts, list(self.labels)]).encode()).hexdigest()

    def stamp(self) -> str:
        """Changes also when a file is written anew."""
        stamps = [(str(table.path), table.stamp) for table in self._tables]
        return hashlib.sha256((self.digest() + json.dumps(stamps)).encode()).hexdigest()

    def _find(self, index: int) -> tuple[Table, int, int]:
        block = bisect_right(self._starts, index) - 1
        return (*self._groups[block], index - self._starts[block])


@functools.lru_cache(WINDOW)
def _row_group(path: Path, stamp: tuple[int, int], group: int) -> Any:
    """A row group's column of pictures."""
    try:
        with _file(path) as file:
            return file.read_row_group(group, columns=["image"], use_threads=False)["image"]
    except ValueError as error:  # Arrow's, or InputError: the file has changed since it was opened first
        raise OSError(f"damaged: {str(error).splitlines()[0]}") from None


def open_parquet(root: Path, files: Sequence[Path], seed: int) -> Parts:
    """Tables for training and validation; without any for validation, a share is set apart.

    Args:
        root: the folder, for messages and for a file of the classes' names.
        files: the tables.
        seed: of what is set apart.

    Raises:
        InputError: if a table is damaged, lacks a column or a label, or pyarrow is not installed.
    """
    learn, judge = by_part(root, files)
    train, val = ([_opened(path) for path in part] for part in (learn, judge))
    if any(isinstance(labels[0], str) for _, labels, _ in (*train, *val)):
        declared = _named(root, train, val)
    else:
        declared = names_beside(root) or train[0][2]
    number = {name: place for place, name in enumerate(declared)}
    learnt, judged = _source(train, number), _source(val, number)
    classes = classes_of(root, declared, learnt.labels, judged.labels if val else None)
    return Parts(classes, learnt, judged) if val else Parts(classes, *set_apart(learnt, seed))


def _named(root: Path, train: Sequence[_Opened], val: Sequence[_Opened]) -> tuple[str, ...]:
    """The classes where labels are names: all of them, sorted."""
    learnt, judged = ({label for _, labels, _ in part for label in labels} for part in (train, val))
    if not all(isinstance(label, str) for label in learnt | judged):
        raise InputError(f"{root}: labels are names in some tables and numbers in others")
    if val and (uneven := sorted(learnt ^ judged)):
        raise InputError(f"{root}: class {uneven[0]} is in training or validation alone")
    return tuple(sorted(learnt))


def _source(tables: Sequence[_Opened], number: dict[str, int]) -> Parquet:
    labels = (label for _, labels, _ in tables for label in labels)
    numbers = (number[label] if isinstance(label, str) else label for label in labels)
    return Parquet([table for table, _, _ in tables], numbers)


def _opened(path: Path) -> _Opened:
    """A table, its labels (numbers or names), and the classes' names that it declares."""
    with _file(path) as file:
        for name in ("image", "label"):
            if name not in file.schema_arrow.names:
                have = ", ".join(file.schema_arrow.names)
                raise InputError(f"{path}: has no column {name}; its columns are {have}")
        labels = file.read(columns=["label"], use_threads=False)["label"].to_pylist()
        _check_labels(path, labels)
        status, about = path.stat(), file.metadata
        groups = [about.row_group(group) for group in range(about.num_row_groups)]
        sizes = tuple(sum(_column_sizes(group)) for group in groups)
        rows = tuple(group.num_rows for group in groups)
        stamp = (status.st_size, status.st_mtime_ns)
        return Table(path, stamp, rows, sizes), labels, _declared(file.schema_arrow.metadata)


def _column_sizes(group: Any) -> list[int]:
    columns = (group.column(place) for place in range(group.num_columns))
    return [one.total_compressed_size for one in columns if one.path_in_schema.partition(".")[0] == "image"]


def _check_labels(path: Path, labels: list[Any]) -> None:
    if not labels:
        raise InputError(f"{path}: holds no rows")
    kind = type(labels[0])
    for row, label in enumerate(labels):
        whole = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        if not (isinstance(label, kind) and (whole or isinstance(label, str))):
            raise InputError(f"{path}: row {row} has no label (a whole number from 0, or a name): {label!r}")


def _declared(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """The names of a ClassLabel, from the description that Hugging Face writes."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _file(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; run pip install 'efficientformer[parquet]'"
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: is no Parquet file, or damaged ({str(error).splitlines()[0]})") from None
