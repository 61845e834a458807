"""Files that are whole or absent, written to one side and renamed; and files that grow by whole lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that whoever looks sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically, for people to read."""
    write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


class JsonLines:
    """A file of JSON documents, a line each, that only grows; a last line cut short by a crash is dropped.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._whole_bytes = path, 0

    @property
    def empty(self) -> bool:
        """Whether nothing was read or written yet."""
        return self._whole_bytes == 0

    def read(self) -> list[Any]:
        """The whole lines.

        Raises:
            ValueError: if one of them is no JSON.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self._whole_bytes = len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, documents: Iterable[Any]) -> None:
        """Write lines behind those read or written last, and see them on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents).encode()
        with self.path.open("ab") as file:
            file.truncate(self._whole_bytes)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._whole_bytes += len(text)
