from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from efficientformer.files import JsonLines, read_json, write_atomically, write_json


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", b""), ("two\nlines ü", "two\nlines ü".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n")],
)
def test_the_content_arrives_byte_for_byte(content: bytes | str, expected: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(path, content)
    assert path.read_bytes() == expected
    assert [found.name for found in path.parent.iterdir()] == ["file.bin"]


def test_a_write_that_breaks_off_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    write_atomically(path, "newer")  # a leftover of the first attempt is no hindrance
    assert path.read_text() == "newer"
    assert [found.name for found in tmp_path.iterdir()] == ["file.txt"]


def test_the_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file.txt", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    write_atomically(path, "content")
    assert seen == [False]
    assert path.exists()


@pytest.mark.parametrize("document", [{"a": [1, 2.5, None, True]}, [], "größer", {"Zürich": {"x": "→"}}])
def test_json_round_trip(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_json(path, document)
    assert read_json(path) == document
    assert json.loads(path.read_bytes()) == document


def test_json_is_written_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"größe": 1, "b": [2]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "größe" in text
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 2


def test_lines_grow_whole_and_a_cut_one_is_dropped(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "deep" / "lines.jsonl")
    assert lines.read() == []
    assert lines.empty
    lines.append([{"a": 1}, {"b": "é"}])
    with lines.path.open("ab") as file:
        file.write(b'{"c"')
    again = JsonLines(lines.path)
    assert again.read() == [{"a": 1}, {"b": "é"}]
    again.append([3])
    assert JsonLines(lines.path).read() == [{"a": 1}, {"b": "é"}, 3]
