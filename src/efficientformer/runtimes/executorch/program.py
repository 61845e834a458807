"""What an ExecuTorch program is made of, read from its `.pte` file alone.

The runtime as distributed has no profiler; this at least tells which operators run in XNNPACK and which fell
back to ExecuTorch's own kernels, many of them plain loops. The file is a flatbuffer, followed by
segments that hold XNNPACK's graphs, flatbuffers again. A table's fields are found by their number in the
schemas (`program.fbs`, and XNNPACK's `schema.fbs`), which ExecuTorch only ever adds to.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from efficientformer.errors import InputError

MAGIC, HEADER, GRAPH_HEADER = b"ET12", b"eh00", b"XH00"
XNNPACK = "XnnpackBackend"
KERNEL_CALL, DELEGATE_CALL = 1, 2  # numbers in the schema's union of instructions
FREE = "executorch_prim::"  # views and arithmetic on shapes: they move no data


@dataclass(frozen=True)
class Partition:
    """Where a program's operators run.

    Attributes:
        delegated: how many operators of each kind XNNPACK runs, by its names without `XNN`: `Conv2d`, …
        fallback: how many calls there are of each kernel outside XNNPACK: `aten::native_layer_norm.out`, …
        parts: pieces the network falls into for XNNPACK; at each border the tensors are copied.
    """

    delegated: dict[str, int]
    fallback: dict[str, int]
    parts: int

    def __str__(self) -> str:
        kernels = ", ".join(f"{name} ×{count}" for name, count in self.fallback.items())
        inside = f"{sum(self.delegated.values())} operators in XNNPACK, in {self.parts} part(s)"
        return f"{inside}; {sum(self.fallback.values())} outside" + (f" ({kernels})" if kernels else "")


def partition(path: Path) -> Partition:
    """Where the operators of an exported file run.

    Raises:
        InputError: if it is not a whole ExecuTorch program.
    """
    try:
        return partition_of(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError, IndexError):
        raise InputError(f"{path}: is not a whole ExecuTorch program") from None


def partition_of(program: bytes) -> Partition:
    """The same of a program in memory.

    Raises:
        ValueError: if it is none. Damage inside raises that too, or struct.error, or IndexError.
    """
    base = _segment_base(program)
    root = _Table.root(program)
    plan = root.tables(1)[0]  # we export one method
    delegated: Counter[str] = Counter()
    parts = 0
    for number in _called_delegates(plan):
        parts += 1
        delegated.update(_kinds(_payload(root, plan.tables(7)[number], program, base)))
    return Partition(dict(delegated), dict(Counter(_called_kernels(plan))), parts)


def _segment_base(program: bytes) -> int:
    """Where the segments begin; a file cut short is refused."""
    if program[4:8] != MAGIC or program[8:12] != HEADER:
        raise ValueError("no ExecuTorch program")
    size, base, data = struct.unpack_from("<QQQ", program, 16)
    if len(program) < max(size, base + data):
        raise ValueError("cut short")
    return base


def _instructions(plan: _Table, kind: int) -> Iterator[int]:
    """The first number of each instruction of a kind: which kernel or which delegate it calls."""
    for chain in plan.tables(5):
        for instruction in chain.tables(2):
            if instruction.byte(0) == kind:
                yield instruction.table(1).integer(0)


def _called_delegates(plan: _Table) -> Iterator[int]:
    return _instructions(plan, DELEGATE_CALL)


def _called_kernels(plan: _Table) -> Iterator[str]:
    operators = plan.tables(6)
    for number in _instructions(plan, KERNEL_CALL):
        name, overload = operators[number].text(0), operators[number].text(1)
        if not name.startswith(FREE):
            yield f"{name}.{overload}" if overload else name


def _payload(root: _Table, delegate: _Table, program: bytes, base: int) -> bytes:
    """XNNPACK's graph of one delegate, from its segment."""
    where = delegate.table(1)
    if delegate.text(0) != XNNPACK or where.byte(0) != 1:
        raise ValueError("not delegated to XNNPACK by a segment")
    segment = root.tables(4)[where.integer(1)]
    start = base + segment.integer(0, "<Q")
    return program[start : start + segment.integer(1, "<Q")]


def _kinds(payload: bytes) -> list[str]:
    """The kinds of a graph's nodes."""
    if payload[4:8] != GRAPH_HEADER:
        raise ValueError("no XNNPACK graph")
    start, size = struct.unpack_from("<II", payload, 10)
    names = _kind_names()
    graph = _Table.root(payload[start : start + size])
    return [names[node.byte(0) - 1] for node in graph.tables(1)]  # a union's 0 is for nothing


def _kind_names() -> list[str]:
    """XNNPACK's operators in the order of their numbers, from the schema that ExecuTorch brings along."""
    spec = importlib.util.find_spec("executorch")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        schema = Path(place) / "backends" / "xnnpack" / "serialization" / "schema.fbs"
        union = re.search(r"union XNodeUnion \{(.*?)\}", schema.read_text(encoding="utf-8"), re.DOTALL)
        if union:
            return re.findall(r"^\s*XNN(\w+)", union[1], re.MULTILINE)
    raise ValueError("executorch is not installed")


@dataclass(frozen=True)
class _Table:
    """A flatbuffer's table: its fields have numbers, and one that is missing reads as 0 or empty."""

    data: bytes
    start: int

    @staticmethod
    def root(data: bytes) -> _Table:
        return _Table(data, _number(data, 0, "<I"))

    def _field(self, number: int) -> int | None:
        index = self.start - _number(self.data, self.start, "<i")
        if 4 + 2 * number >= _number(self.data, index, "<H"):
            return None
        offset = _number(self.data, index + 4 + 2 * number, "<H")
        return self.start + offset if offset else None

    def _target(self, number: int) -> int | None:
        field = self._field(number)
        return None if field is None else field + _number(self.data, field, "<I")

    def byte(self, number: int) -> int:
        return self.integer(number, "<B")

    def integer(self, number: int, form: str = "<i") -> int:
        field = self._field(number)
        return 0 if field is None else _number(self.data, field, form)

    def table(self, number: int) -> _Table:
        target = self._target(number)
        if target is None:
            raise ValueError(f"field {number} is missing")
        return _Table(self.data, target)

    def tables(self, number: int) -> list[_Table]:
        target = self._target(number)
        if target is None:
            return []
        first = target + 4
        entries = range(first, first + 4 * _number(self.data, target, "<I"), 4)
        return [_Table(self.data, entry + _number(self.data, entry, "<I")) for entry in entries]

    def text(self, number: int) -> str:
        target = self._target(number)
        if target is None:
            return ""
        return self.data[target + 4 : target + 4 + _number(self.data, target, "<I")].decode()


def _number(data: bytes, at: int, form: str) -> int:
    return struct.unpack_from(form, data, at)[0]
