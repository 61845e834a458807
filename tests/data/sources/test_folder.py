from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.data.sources import folder as module
from efficientformer.data.sources.folder import SHARE_SEARCH, SHARE_VAL, SUFFIXES, Sample, Split, scan


def touch(root: Path, counts: dict[str, int]) -> Path:
    """Empty files: finding and splitting opens none."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index:03}.jpg").touch()
    return root


def per_class(split: Split, samples: tuple[Sample, ...]) -> dict[str, int]:
    return dict(Counter(split.classes[label] for _, label in samples))


@pytest.mark.parametrize(
    ("counts", "train", "search", "val"),
    [
        ({"cat": 20, "dog": 40}, (14, 27), (2, 5), (4, 8)),
        ({"train/cat": 20, "train/dog": 40}, (14, 27), (2, 5), (4, 8)),
        ({"train/cat": 20, "train/dog": 40, "val/cat": 3, "val/dog": 7}, (17, 34), (3, 6), (3, 7)),
        ({"cat/siamese": 10, "cat/manx/tailless": 10, "dog": 40}, (14, 27), (2, 5), (4, 8)),
    ],
)
def test_layouts(
    counts: dict[str, int],
    train: tuple[int, int],
    search: tuple[int, int],
    val: tuple[int, int],
    tmp_path: Path,
) -> None:
    split = scan(touch(tmp_path / "data", counts))
    assert split.classes == ("cat", "dog")
    parts = [per_class(split, part) for part in (split.train, split.search, split.val)]
    assert parts == [dict(zip(split.classes, counts, strict=True)) for counts in (train, search, val)]


def test_val_is_for_the_final_figures_alone(tmp_path: Path) -> None:
    split = scan(touch(tmp_path, {"train/a": 10, "train/b": 10, "val/a": 2, "val/b": 2}))
    assert all(tmp_path / "val" in path.parents for path, _ in split.val)
    assert all(tmp_path / "train" in path.parents for path, _ in (*split.train, *split.search))


class_sizes = st.lists(st.integers(3, 40), min_size=2, max_size=4)


@given(sizes=class_sizes, seed=st.integers(0, 5))
def test_the_parts_are_disjoint_complete_and_stratified(
    sizes: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [f"class {index}" for index in range(len(sizes))]
    root = touch(tmp_path_factory.mktemp("data"), dict(zip(names, sizes, strict=True)))
    split = scan(root, seed)
    every = [path for part in (split.train, split.search, split.val) for path, _ in part]
    assert sorted(every) == sorted(root.rglob("*.jpg"))
    assert all(path.parent.name == split.classes[label] for path, label in split.train)
    for name, size in zip(names, sizes, strict=True):
        val, search = per_class(split, split.val)[name], per_class(split, split.search)[name]
        assert abs(val - SHARE_VAL * size) <= 1
        assert abs(search - SHARE_SEARCH * (size - val)) <= 1
        assert per_class(split, split.train)[name] == size - val - search


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path, _ in samples]


def test_a_seed_gives_the_same_split_wherever_the_folder_is(tmp_path: Path) -> None:
    counts = {"cat": 30, "dog": 30}
    here, there = touch(tmp_path / "here", counts), touch(tmp_path / "elsewhere", counts)
    first, again, moved, other = scan(here, 3), scan(here, 3), scan(there, 3), scan(here, 4)
    assert first == again
    assert first.digest() == moved.digest() != other.digest()
    for part in ("train", "search", "val"):
        assert names(getattr(first, part)) == names(getattr(moved, part))
        assert names(getattr(first, part)) != names(getattr(other, part))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda root: (root / "cat" / "notes.txt").touch(), True),
        (lambda root: (root / "cat" / "000.jpg").write_bytes(b"other content"), False),
        (lambda root: (root / "cat" / "another.jpg").touch(), False),
        (lambda root: (root / "cat" / "000.jpg").unlink(), False),
        (lambda root: (root / "cat" / "000.jpg").rename(root / "dog" / "moved.jpg"), False),
        (lambda root: (root / "cat").rename(root / "lynx"), False),
    ],
)
def test_the_digest_changes_with_the_files_of_a_split(
    change: Callable[[Path], None], same: bool, tmp_path: Path
) -> None:
    root = touch(tmp_path, {"cat": 20, "dog": 20})
    before = scan(root).digest()
    assert scan(root, seed=1).digest() != before
    change(root)
    assert (scan(root).digest() == before) is same


def test_a_search_is_judged_on_so_many_images_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SEARCH", 12)
    split = scan(touch(tmp_path, {"cat": 200, "dog": 100}))
    assert per_class(split, split.search) == {"cat": 8, "dog": 4}
    assert per_class(split, split.val) == {"cat": 40, "dog": 20}


@pytest.mark.parametrize("suffix", [*sorted(SUFFIXES), ".JPG", ".Png"])
def test_suffixes(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, {"cat": 10, "dog": 10})
    (tmp_path / "cat" / f"another{suffix}").touch()
    split = scan(tmp_path)
    found = [path.name for path, _ in (*split.train, *split.search, *split.val)]
    assert f"another{suffix}" in found


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, {"cat": 10, "dog": 10, ".git": 10, "empty": 0})
    for name in ("cat/labels.txt", "cat/.DS_Store", "cat/jpg", "README.md", "loose.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    split = scan(tmp_path)
    assert split.classes == ("cat", "dog")
    assert len(split.train) + len(split.search) + len(split.val) == 20


def test_a_folder_called_like_an_image_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, {"cat": 10, "dog": 10, "cat/holiday.jpg": 10})
    split = scan(tmp_path)
    assert all(path.is_file() for path, _ in (*split.train, *split.search, *split.val))


# What is refused


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "no such folder; give --data a folder"),
        ({"": 0}, "holds no images in class folders"),
        ({"": 20}, "holds no images in class folders"),  # images, but no classes
        ({"cat": 0, "dog": 0}, "holds no images in class folders"),
        ({"cat": 20}, r"holds one class only \(cat\); at least two"),
        ({"cat": 20, "dog": 0}, r"holds one class only \(cat\)"),
        ({"train": 0}, "train: holds no images in class folders"),
        ({"train/cat": 20}, "train: holds one class only"),
        ({"train/cat": 20, "train/dog": 20, "val": 0}, "val: holds no images in class folders"),
        ({"train/cat": 20, "train/dog": 20, "val/cat": 9, "val/fox": 9}, "class fox is not among"),
        ({"cat": 1, "dog": 1}, "class cat has too few images to split; give at least 10 a class"),
        ({"cat": 2, "dog": 2}, "class cat has too few"),
        ({"cat": 100, "dog": 1}, "class dog has too few"),
        ({"cat": 100, "dog": 2}, "class dog has too few"),
        ({"train/cat": 9, "train/dog": 1, "val/cat": 9, "val/dog": 9}, "class dog has too few"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    counts: dict[str, int] | None, message: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    if counts is not None:
        touch(root, counts)
    with pytest.raises(InputError, match=message) as caught:
        scan(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "cats.zip").touch()
    with pytest.raises(InputError, match="no such folder"):
        scan(tmp_path / "cats.zip")
