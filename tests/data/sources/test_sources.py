"""Whatever form a data set has, the same pictures come with the same labels."""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from efficientformer import InputError
from efficientformer.data.images import decode
from efficientformer.data.order import Order
from efficientformer.data.sources import Parts, open_parts, parquet
from efficientformer.data.sources.base import Source
from tests.data.sources.make import class_folder, encoded, rows, shard, table, write_tar

TRAIN, VAL = rows(14), rows(6, first=100)
Write = Callable[[Path], object]


def many(root: Path) -> None:
    for place, name in ((0, "imagenet1k-train-0000.tar"), (8, "imagenet1k-train-0001.tar")):
        shard(root / name, TRAIN[place : place + 8])
    shard(root / "imagenet1k-validation-00.tar", VAL)


def hub(root: Path) -> None:
    table(root / "data" / "train-00000-of-00002.parquet", TRAIN[:8])
    table(root / "data" / "train-00001-of-00002.parquet", TRAIN[8:])
    table(root / "data" / "validation-00000-of-00001.parquet", VAL)
    table(root / "data" / "test-00000-of-00001.parquet", rows(4, first=500))


FORMS: dict[str, Write] = {
    "class folders": lambda root: (class_folder(root / "train", TRAIN), class_folder(root / "val", VAL)),
    "class folders, validation": lambda root: (
        class_folder(root / "train", TRAIN),
        class_folder(root / "validation", VAL),
    ),
    "shards by name": many,
    "shards in folders": lambda root: (
        shard(root / "train" / "a.tar", TRAIN[:5]),
        shard(root / "train" / "b.tar", TRAIN[5:]),
        shard(root / "val" / "a.tar", VAL),
    ),
    "shards with json": lambda root: (
        shard(root / "train-0.tar", TRAIN, "json"),
        shard(root / "val-0.tar", VAL, "json"),
    ),
    "tables of the hub": hub,
    "tables by folder": lambda root: (
        table(root / "train" / "0.parquet", TRAIN),
        table(root / "test" / "0.parquet", VAL),
    ),
    "tables of bytes": lambda root: (
        table(root / "train.parquet", TRAIN, plain=True),
        table(root / "valid.parquet", VAL, plain=True),
    ),
    "labels by name": lambda root: (
        table(root / "train.parquet", [(content, f"{label}") for content, label in TRAIN]),
        table(root / "val.parquet", [(content, f"{label}") for content, label in VAL]),
    ),
}


def content_of(source: Source) -> Counter[tuple[bytes, int]]:
    return Counter((source.read(index), source.labels[index]) for index in range(len(source)))


@pytest.fixture(params=FORMS)
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Parts:
    FORMS[request.param](tmp_path / "data")
    return open_parts(tmp_path / "data")


def test_the_same_pictures_in_every_form(parts: Parts) -> None:
    assert parts.classes == ("0", "1")
    for source, given in ((parts.train, TRAIN), (parts.val, VAL)):
        assert content_of(source) == Counter(given)
        assert len(source) == len(source.labels) == len(given)
        assert len({source.name(index) for index in range(len(source))}) == len(given)


def test_blocks_cover_all_in_order(parts: Parts) -> None:
    if parts.train.blocks:
        assert [index for block in parts.train.blocks for index in block] == list(range(len(TRAIN)))
    drawn = Order(len(TRAIN), 7, blocks=parts.train.blocks).epoch(0)
    assert sorted(drawn.tolist()) == list(range(len(TRAIN)))


def test_a_copy_for_a_worker_is_the_same(parts: Parts) -> None:
    parts.train.read(0)
    copy = pickle.loads(pickle.dumps(parts.train))
    backwards = reversed(range(len(TRAIN)))
    assert [copy.read(index) for index in backwards] == [
        parts.train.read(index) for index in reversed(range(len(TRAIN)))
    ]
    assert copy.digest() == parts.train.digest()
    assert copy.name(3) == parts.train.name(3)


def test_every_form_can_be_held(parts: Parts, tmp_path: Path) -> None:
    images = decode(parts.train, 8, tmp_path / "held")
    assert images.labels.tolist() == list(parts.train.labels)
    assert images.unreadable == ()


SPLIT: dict[str, Write] = {
    "class folders": lambda root: class_folder(root, rows(40, 4)),
    "shards": lambda root: [shard(root / f"{name}.tar", rows(20, 4, 20 * name)) for name in (0, 1)],
    "training shards": lambda root: shard(root / "train.tar", rows(40, 4)),
    "tables": lambda root: table(root / "all.parquet", rows(40, 4)),
}


@pytest.mark.parametrize("form", SPLIT)
def test_without_validation_a_fifth_of_each_class_is_set_apart(form: str, tmp_path: Path) -> None:
    SPLIT[form](tmp_path)
    first, again, other = (open_parts(tmp_path, seed) for seed in (1, 1, 2))
    assert Counter(first.val.labels) == dict.fromkeys(range(4), 2)
    assert content_of(first.train) + content_of(first.val) == Counter(rows(20, 4) + rows(20, 4, 20))
    assert (content_of(first.val), first.val.digest()) == (content_of(again.val), again.val.digest())
    assert content_of(first.val) != content_of(other.val)
    assert first.val.digest() != other.val.digest()
    for source in (first.train, first.val):
        assert not source.blocks or [i for block in source.blocks for i in block] == list(range(len(source)))


@pytest.mark.parametrize("form", ["class folders", "shards by name", "tables of the hub"])
@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda rows: rows, True),
        (lambda rows: rows[:-1], False),
        (lambda rows: [*rows[:-1], (rows[-1][0], 1 - rows[-1][1])], False),
        (lambda rows: [*rows[:-1], (rows[-1][0] + bytes(600), rows[-1][1])], False),
    ],
    ids=["nothing", "one less", "another class", "another size"],
)
def test_the_digest(
    form: str, change: Callable[[list], list], same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FORMS[form](tmp_path / "here")
    before = open_parts(tmp_path / "here").train
    monkeypatch.setattr(sys.modules[__name__], "TRAIN", change(TRAIN))
    FORMS[form](tmp_path / "there")
    after = open_parts(tmp_path / "there").train
    assert (before.digest() == after.digest()) is same
    assert before.stamp() != after.stamp()


# Names of classes


@pytest.mark.parametrize("name", ["classes.txt", "classnames.txt", "labels.txt"])
def test_names_beside_the_shards(name: str, tmp_path: Path) -> None:
    many(tmp_path)
    (tmp_path / name).write_text("tench\ngreat white shark\ncrane\n\n")
    assert open_parts(tmp_path).classes == ("tench", "great white shark", "crane")


def test_names_in_the_table(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", TRAIN, names=["cat", "dog"])
    table(tmp_path / "val.parquet", VAL, names=["cat", "dog"])
    assert open_parts(tmp_path).classes == ("cat", "dog")


def test_a_cell_may_name_a_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": None, "path": f"{number}.png"} for number in range(3)]
    cells.append({"bytes": None, "path": None})
    (tmp_path / "0.png").write_bytes(encoded(7))
    for part in ("train", "val"):
        pq.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1]}), tmp_path / f"{part}.parquet")
    source = open_parts(tmp_path).train
    assert source.read(0) == encoded(7)
    for index in (1, 3):
        with pytest.raises(OSError, match=r"No such file|the cell is empty"):
            source.read(index)
    assert source.name(3) == f"{tmp_path / 'train.parquet'}: row 3"


def test_row_groups_are_read_once_in_an_epochs_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "train.parquet", rows(120), group=3)
    table(tmp_path / "val.parquet", VAL)
    source = open_parts(tmp_path).train
    parquet._row_group.cache_clear()
    for index in Order(len(source), 10, blocks=source.blocks).epoch(0):
        source.read(int(index))
    assert parquet._row_group.cache_info().misses == len(source.blocks) == 40


# Shards


def test_a_picture_is_named_by_shard_and_member(tmp_path: Path) -> None:
    many(tmp_path)
    source = open_parts(tmp_path).train
    assert source.name(9) == f"{tmp_path / 'imagenet1k-train-0001.tar'}: 0001.png"


def test_what_else_is_in_a_shard_is_passed_over(tmp_path: Path) -> None:
    long = "folder/" + "x" * 150  # more than a tar's head holds
    members = [
        ("README", b"hello"),
        ("._0.png", b"a Mac's"),
        (f"{long}.seg.png", encoded(8)),
        (f"{long}.PNG", encoded(9)),
        (f"{long}.cls", b" 1\n"),
        (f"{long}.json", b'{"caption": "a dog"}'),
        ("b.cls", b"0"),
        ("b.jpg", encoded(10)),
    ]
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "val.tar", members)
    source = open_parts(tmp_path).train
    assert content_of(source) == Counter([(encoded(9), 1), (encoded(10), 0)])


def test_what_lies_where_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientformer.data.sources import tars

    gone_through: list[str] = []
    real = tars._gone_through
    monkeypatch.setattr(tars, "_gone_through", lambda path: [gone_through.append(path.name), real(path)][1])
    many(tmp_path / "data")
    listing = sorted((tmp_path / "data").iterdir())
    first = open_parts(tmp_path / "data", cache=tmp_path / "cache")
    again = open_parts(tmp_path / "data", cache=tmp_path / "cache")
    assert len(gone_through) == 3
    assert sorted((tmp_path / "data").iterdir()) == listing  # nothing is written beside the user's files
    assert first.train.stamp() == again.train.stamp()
    assert content_of(again.train) == Counter(TRAIN)
    for kept in (tmp_path / "cache").iterdir():
        kept.write_text(kept.read_text()[:20])  # damaged
    shard(tmp_path / "data" / "imagenet1k-train-0000.tar", TRAIN[:7])
    newest = open_parts(tmp_path / "data", cache=tmp_path / "cache")
    assert len(gone_through) == 6
    assert len(newest.train) == 13


def test_a_shard_cut_later_is_an_error_of_reading(tmp_path: Path) -> None:
    many(tmp_path)
    source = open_parts(tmp_path).train
    path = tmp_path / "imagenet1k-train-0000.tar"
    os.truncate(path, 3000)
    with pytest.raises(OSError, match="ends before it"):
        source.read(7)
    path.unlink()
    many(tmp_path)  # written anew: what was open before is not read
    assert open_parts(tmp_path).train.read(7) == TRAIN[7][0]


# What is refused


def torn(root: Path, share: float) -> None:
    many(root)
    path = root / "imagenet1k-train-0001.tar"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def packed(root: Path) -> None:
    import gzip

    many(root)
    path = root / "imagenet1k-train-0001.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))


def cut_table(root: Path) -> None:
    path = table(root / "train.parquet", TRAIN)
    path.write_bytes(path.read_bytes()[:-9])


def columns(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    pq.write_table(pa.table({"img": [b""], "label": [1]}), root / "train.parquet")


REFUSED: dict[str, tuple[Write, str]] = {
    "nothing": (lambda root: root.mkdir(), "holds no images in class folders, .*tar or .*parquet"),
    "no folder": (lambda root: root.with_name("other").mkdir(), "no such folder; give --data"),
    "pictures without classes": (
        lambda root: (root.mkdir(), (root / "1.png").write_bytes(encoded(1))),
        "holds no images in class folders",
    ),
    "a folder and shards": (lambda root: (class_folder(root, TRAIN), many(root)), "several forms"),
    "shards and tables": (lambda root: (many(root), hub(root)), "several forms"),
    "one class": (lambda root: class_folder(root, rows(9, 1)), "holds one class only"),
    "one class in shards": (lambda root: shard(root / "train.tar", rows(9, 1)), "holds one class only"),
    "no such class in training": (
        lambda root: (class_folder(root / "train", TRAIN), class_folder(root / "val", rows(9, 3))),
        "class 2 is not among the training classes",
    ),
    "a class without validation": (
        lambda root: (class_folder(root / "train", rows(9, 3)), class_folder(root / "val", VAL)),
        "class 2 has no validation pictures",
    ),
    "a class too small to split": (
        lambda root: class_folder(root, [*TRAIN, (encoded(1), 2)]),
        "class 2 has no training pictures",
    ),
    "the same in shards": (
        lambda root: shard(root / "a.tar", [*TRAIN, (encoded(1), 2)]),
        "its class has too few pictures",
    ),
    "other classes in validation": (
        lambda root: (shard(root / "train.tar", TRAIN), shard(root / "val.tar", rows(9, 3))),
        "class 2 is in training or validation alone",
    ),
    "other named classes in validation": (
        lambda root: (
            table(root / "train.parquet", [(content, f"c{label}") for content, label in TRAIN]),
            table(root / "val.parquet", [(content, f"c{label}") for content, label in rows(9, 3)]),
        ),
        "class c2 is in training or validation alone",
    ),
    "names and numbers": (
        lambda root: (
            table(root / "train.parquet", TRAIN),
            table(root / "val.parquet", [(content, f"{label}") for content, label in VAL]),
        ),
        "labels are names in some tables and numbers in others",
    ),
    "counted from one": (
        lambda root: shard(root / "train.tar", [(content, label + 1) for content, label in TRAIN]),
        "are not 0 to 1 .*number them so, or name them",
    ),
    "too few names": (
        lambda root: (many(root), (root / "classes.txt").write_text("tench\n")),
        "class number 1, but 1 classes have names",
    ),
    "only validation": (lambda root: shard(root / "val.tar", VAL), "holds no training files"),
    "a part that is not told": (
        lambda root: (shard(root / "train.tar", TRAIN), shard(root / "more.tar", VAL)),
        "more.tar: is it for training or validation",
    ),
    "two parts in a name": (lambda root: shard(root / "train-val.tar", TRAIN), "is it for train or val"),
    "no label": (
        lambda root: write_tar(root / "train.tar", [("a.png", encoded(1))]),
        r"train.tar: a has no label \(.cls, or .json",
    ),
    "no picture": (lambda root: write_tar(root / "train.tar", [("a.cls", b"1")]), "a has no picture"),
    "two pictures": (
        lambda root: write_tar(root / "train.tar", [("a.png", encoded(1)), ("a.jpg", encoded(2))]),
        "a has two pictures",
    ),
    "a label in words": (
        lambda root: write_tar(root / "train.tar", [("a.png", encoded(1)), ("a.cls", b"dog")]),
        "a.cls: the label must be a whole number from 0",
    ),
    "a negative label": (
        lambda root: write_tar(root / "train.tar", [("a.png", encoded(1)), ("a.cls", b"-1")]),
        "the label must be a whole number",
    ),
    "a label in words in json": (
        lambda root: write_tar(root / "train.tar", [("a.png", encoded(1)), ("a.json", b'{"label": "x"}')]),
        "a.json: the label must be a whole number",
    ),
    "damaged json": (
        lambda root: write_tar(root / "train.tar", [("a.png", encoded(1)), ("a.json", b"{")]),
        "a.json: the label must be",
    ),
    "an empty shard": (lambda root: write_tar(root / "train.tar", []), "holds no pictures"),
    "no tar": (
        lambda root: (root.mkdir(), (root / "train.tar").write_text("404")),
        "is cut short or damaged",
    ),
    "an empty file": (lambda root: (root.mkdir(), (root / "train.tar").touch()), "is cut short or damaged"),
    "a compressed tar": (packed, "imagenet1k-train-0001.tar: is cut short .* unpack it if it is compressed"),
    **{
        f"a tar cut at {share:.0%}": (lambda root, share=share: torn(root, share), "0001.tar: is cut short")
        for share in (0.1, 0.3, 0.5)
    },
    "no table": (
        lambda root: (root.mkdir(), (root / "train.parquet").write_text("x" * 99)),
        "is no Parquet",
    ),
    "a cut table": (cut_table, "is no Parquet file, or damaged"),
    "no column": (columns, "has no column image; its columns are img, label"),
    "no label in a table": (
        lambda root: table(root / "train.parquet", [*TRAIN, (encoded(1), None)]),
        "row 14 has no label",
    ),
    "a hidden label": (lambda root: table(root / "train.parquet", [(encoded(1), -1)]), "row 0 has no label"),
    "an empty table": (lambda root: table(root / "train.parquet", []), "holds no rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    write(tmp_path / "data")
    with pytest.raises(InputError, match=message) as caught:
        open_parts(tmp_path / "data")
    assert str(tmp_path) in str(caught.value) or "Its name says each" in str(caught.value)


def test_a_tar_cut_between_two_members_is_torn(tmp_path: Path) -> None:
    path = shard(tmp_path / "train.tar", TRAIN)
    whole = path.read_bytes()
    member = whole.index(b"0007.cls")
    assert member % 512 == 0
    path.write_bytes(whole[:member])  # tarfile takes that for the end
    with pytest.raises(InputError, match="is cut short"):
        open_parts(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"run pip install 'efficientformer\[parquet\]'"):
        open_parts(tmp_path)


def test_a_source_is_small(tmp_path: Path) -> None:
    """A worker's copy of ImageNet's training folder must not be gigabytes."""
    from efficientformer.data.sources.folder import Folder

    samples = [(tmp_path / f"n{label:08}" / f"n{label:08}_{label}.JPEG", label) for label in range(10_000)]
    assert len(pickle.dumps(Folder(samples, tmp_path))) < 60 * len(samples)
    assert Folder(samples, tmp_path).name(9_999) == str(samples[9_999][0])
