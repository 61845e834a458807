"""Small data sets in each form, of the same pictures."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Row = tuple[bytes, int | str]
"""An encoded picture and its label."""


def encoded(number: int, form: str = "png") -> bytes:
    """A small picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def rows(count: int, classes: int = 2, first: int = 0) -> list[Row]:
    return [(encoded(first + index), index % classes) for index in range(count)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def shard(path: Path, samples: Sequence[Row], kind: str = "cls") -> Path:
    members: list[tuple[str, bytes]] = []
    for index, (content, label) in enumerate(samples):
        text = str(label) if kind == "cls" else json.dumps({"label": label, "width": 12})
        members += [(f"{index:04}.{kind}", text.encode()), (f"{index:04}.png", content)]
    return write_tar(path, members)


def table(
    path: Path,
    samples: Sequence[Row],
    group: int = 3,
    names: Sequence[str] = (),
    plain: bool = False,
) -> Path:
    """Hugging Face's form, or with `plain` a column of bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    contents, labels = [content for content, _ in samples], [label for _, label in samples]
    image = contents if plain else [{"bytes": content, "path": None} for content in contents]
    of_struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = pa.binary() if plain else of_struct
    made = pa.table({"image": pa.array(image, kind), "label": pa.array(labels)})
    if names:
        about = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(made, path, row_group_size=group)
    return path


def class_folder(root: Path, samples: Sequence[Row]) -> Path:
    for index, (content, label) in enumerate(samples):
        path = root / str(label) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root
