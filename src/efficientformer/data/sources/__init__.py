"""Where labelled pictures come from: a folder of class folders, WebDataset shards, Parquet tables."""

from __future__ import annotations

from pathlib import Path

from efficientformer.data.sources.base import Parts
from efficientformer.data.sources.folder import is_image, open_folder
from efficientformer.data.sources.labels import PART_FOLDERS
from efficientformer.data.sources.parquet import open_parquet
from efficientformer.data.sources.tars import open_tars
from efficientformer.errors import InputError
from efficientformer.progress import Progress


def open_parts(
    root: Path, seed: int = 0, *, cache: Path | None = None, progress: Progress | None = None
) -> Parts:
    """The training and validation pictures of a folder, in whichever form it holds them.

    Class folders (`train/<class>/*` with `val/<class>/*`, or `<class>/*`), WebDataset shards (`*.tar`) or
    Parquet tables (`*.parquet`), these in the folder itself or in `train`, `val` and the like. Where nothing
    is given for validation, a fifth of each class is set apart by the seed.

    Args:
        root: the folder.
        seed: of what is set apart.
        cache: a folder where it is kept what the shards hold; without one they are gone through each time.
        progress: told how far that is.

    Raises:
        InputError: if it is none of these or several, a file is damaged, a label is missing, or the classes
            of training and validation differ.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give --data a folder of <class>/*.jpg, *.tar or *.parquet")
    found = {kind: files for kind in ("tar", "parquet") if (files := _files(root, kind))}
    pictures = _picture_in_class_folder(root)
    examples = [files[0] for files in found.values()] + ([pictures] if pictures else [])
    if len(examples) > 1:
        raise InputError(f"{root}: holds data in several forms ({examples[0]}, {examples[1]}); keep one")
    if "tar" in found:
        return open_tars(root, found["tar"], seed, cache, progress)
    if "parquet" in found:
        return open_parquet(root, found["parquet"], seed)
    if not pictures:
        raise InputError(
            f"{root}: holds no images in class folders, *.tar or *.parquet; expected <class>/*.jpg"
        )
    return open_folder(root, seed)


def _files(root: Path, ending: str) -> list[Path]:
    folders = (root, root / "data", *(root / name for name in PART_FOLDERS))
    found = (path for folder in folders if folder.is_dir() for path in sorted(folder.glob(f"*.{ending}")))
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _picture_in_class_folder(root: Path) -> Path | None:
    """The first picture that lies in a folder of a folder, if there is one."""
    start = root / "train" if (root / "train").is_dir() else root
    folders = sorted(path for path in start.iterdir() if path.is_dir() and not path.name.startswith("."))
    return next((path for folder in folders for path in folder.rglob("*") if is_image(path)), None)
