"""Batches are the same bytes whoever makes them, and workers end when they should."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

from efficientformer import InputError
from efficientformer.data.augmentation import Augmentation, Interpolation
from efficientformer.data.bad_files import BadFiles
from efficientformer.data.order import Order
from efficientformer.data.sources import open_parts
from efficientformer.data.sources.base import Source
from efficientformer.data.sources.folder import Folder
from efficientformer.data.stream import (
    RawBatch,
    Stream,
    evaluation_stream,
    least_side,
    training_transform,
)
from tests.data.sources.make import class_folder, rows, shard, table

SIDE, BATCH = 16, 6
STRONG = Augmentation(0.08, rand_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic")
COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = class_folder(tmp_path_factory.mktemp("images"), rows(COUNT))
    (root / "0" / "0004.png").write_bytes(b"")
    return Folder([(path, int(path.parent.name)) for path in sorted(root.rglob("*.png"))], root)


def taken(stream: Stream, step: int, count: int) -> list[RawBatch]:
    return list(itertools.islice(stream.from_step(step), count))


def made(source: Source, first: int = 0, count: int = 5, workers: int = 0, **options: int) -> list[RawBatch]:
    stream = Stream(source, Order(len(source), BATCH, seed=3), STRONG, SIDE, 3, workers=workers, **options)
    batches = taken(stream, first, count)
    stream.close()
    return batches


def same(first: RawBatch, second: RawBatch) -> bool:
    pairs = ((first.pixels, second.pixels), (first.labels, second.labels), (first.numbers, second.numbers))
    return all(torch.equal(*pair) for pair in pairs) and first.bad == second.bad


@pytest.fixture(scope="module")
def expected(folder: Source) -> list[RawBatch]:
    return made(folder, count=8)  # more than two epochs


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("first", [0, 4])
def test_any_workers_and_any_start_give_the_same_bytes(
    folder: Source, expected: list[RawBatch], workers: int, first: int
) -> None:
    assert all(map(same, made(folder, first, 4, workers), expected[first : first + 4]))


def test_ranks_share_a_step(folder: Source, expected: list[RawBatch]) -> None:
    parts = zip(made(folder, rank=0, size=2), made(folder, rank=1, size=2), expected, strict=False)
    for one, two, whole in parts:
        numbers = torch.cat([one.numbers, two.numbers])
        order = numbers.argsort()
        assert torch.equal(numbers[order], whole.numbers)
        assert torch.equal(torch.cat([one.pixels, two.pixels])[order], whole.pixels)
        assert torch.equal(torch.cat([one.labels, two.labels])[order], whole.labels)
        assert sorted(one.bad + two.bad) == sorted(whole.bad)


def test_a_batch(folder: Source, expected: list[RawBatch]) -> None:
    order = Order(len(folder), BATCH, seed=3)
    for step, batch in enumerate(expected):
        draws = order.draws(step)
        good = [place for place, index in enumerate(draws.indices) if "0004" not in folder.name(int(index))]
        assert batch.pixels.shape == (len(good), 3, SIDE, SIDE)
        assert batch.pixels.dtype == torch.uint8
        assert batch.labels.tolist() == [folder.labels[index] for index in draws.indices[good]]
        assert batch.labels.dtype == batch.numbers.dtype == torch.int64
        assert batch.numbers.tolist() == draws.numbers[good].tolist()
        assert len(batch.bad) == BATCH - len(good)
    bad = {name for batch in expected for name in batch.bad}
    (name,) = bad  # one file, in both epochs
    assert re.fullmatch(r".*/0/0004\.png: UnidentifiedImageError: an empty file", name)


def test_each_draw_of_a_picture_is_augmented_anew(folder: Source) -> None:
    order = Order(len(folder), BATCH, repeats=3, seed=0)
    batch = next(Stream(folder, order, Augmentation(), SIDE).from_step(0))
    assert len({picture.numpy().tobytes() for picture in batch.pixels}) == BATCH
    other = next(Stream(folder, order, Augmentation(), SIDE, seed=1).from_step(0))
    assert not torch.equal(batch.pixels, other.pixels)


def test_without_randomness_it_is_the_picture(folder: Source) -> None:
    stream = Stream(folder, Order(len(folder), BATCH), Augmentation(1.0, flip=False), 9)
    batch = next(stream.from_step(0))
    assert batch.pixels.shape[1:] == (3, 9, 9)
    indices = [i for i in Order(len(folder), BATCH).draws(0).indices if "0004" not in folder.name(int(i))]
    for picture, index in zip(batch.pixels, indices, strict=True):
        whole = Image.open(folder.name(int(index)))  # 12 × 9; 11 × 9 is a crop of all its area, rounded
        crops = [whole.crop(box) for box in ((0, 0, 12, 9), (0, 0, 11, 9), (1, 0, 12, 9))]
        fitted = (np.asarray(crop.resize((9, 9), Image.Resampling.BILINEAR)) for crop in crops)
        assert any(np.array_equal(pixels.transpose(2, 0, 1), picture.numpy()) for pixels in fitted)


@pytest.mark.parametrize("workers", [0, 1])
def test_randomness_elsewhere_is_left_alone(folder: Source, workers: int) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def sow() -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    sow()
    wanted = [draw() for _ in range(3)]
    sow()
    stream = Stream(folder, Order(len(folder), BATCH), STRONG, SIDE, workers=workers)
    drawn = [draw() for _ in itertools.islice(stream.from_step(0), 3)]
    stream.close()
    assert drawn == wanted


def test_only_the_last_iterator_goes_on(folder: Source, expected: list[RawBatch]) -> None:
    stream = Stream(folder, Order(len(folder), BATCH, seed=3), STRONG, SIDE, 3, workers=1)
    first = stream.from_step(0)
    assert same(next(first), expected[0])
    workers = multiprocessing.active_children()
    second = stream.from_step(5)
    assert next(first, None) is None
    assert same(next(second), expected[5])
    assert multiprocessing.active_children() == workers  # kept
    stream.close()
    assert next(second, None) is None
    assert multiprocessing.active_children() == []


def test_a_batch_without_a_good_picture_is_empty(tmp_path: Path) -> None:
    samples = [(tmp_path / f"{number}.jpg", 0) for number in range(4)]
    batch = next(Stream(Folder(samples), Order(4, 4), Augmentation(), SIDE).from_step(0))
    assert batch.pixels.shape == (0, 3, SIDE, SIDE)
    assert batch.labels.shape == batch.numbers.shape == (0,)
    assert all("jpg: FileNotFoundError" in name for name in batch.bad)
    assert len(batch.bad) == 4


@pytest.mark.parametrize("form", ["shards", "tables"])
def test_shards_and_tables_are_read_by_workers(form: str, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write, ending = (shard, "tar") if form == "shards" else (table, "parquet")
        write(tmp_path / f"{part}.{ending}", rows(COUNT))
    source = open_parts(tmp_path).train
    order = Order(len(source), BATCH, blocks=source.blocks)
    here, there = (taken(Stream(source, order, STRONG, SIDE, workers=n), 0, 4) for n in (0, 2))
    assert all(map(same, here, there))


# What is done to a picture


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_transform_is_timms(interpolation: Interpolation) -> None:
    given = training_transform(Augmentation(0.2, flip=False, interpolation=interpolation), SIDE)
    crop = RandomResizedCropAndInterpolation(SIDE, scale=(0.2, 1.0), interpolation=interpolation)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    for seed in range(5):
        random.seed(seed), torch.manual_seed(seed)
        pixels = given(picture)
        random.seed(seed), torch.manual_seed(seed)
        assert np.array_equal(pixels.numpy(), np.asarray(crop(picture)).transpose(2, 0, 1))


def test_flips_are_asked_for() -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3)))
    for flip, expected in ((True, {True, False}), (False, {False})):
        transform = training_transform(Augmentation(1.0, flip=flip), SIDE)
        seen = {bool(x[0, 0, 0] > x[0, 0, -1]) for x in (transform(ramp) for _ in range(30))}
        assert seen == expected


def test_every_magnitude_of_rand_augment_works() -> None:
    """timm posterizes to 0 bits at the greatest magnitude, which Pillow refuses."""
    strongest = training_transform(Augmentation(rand_augment="rand-m10-n15-inc1"), SIDE)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    random.seed(0), np.random.seed(0)
    for _ in range(40):
        assert strongest(picture).shape == (3, SIDE, SIDE)


@given(
    width=st.integers(300, 2000),
    height=st.integers(300, 2000),
    area=st.sampled_from([0.08, 0.35, 1.0]),
    seed=st.integers(0, 99),
)
def test_no_crop_is_blown_up_for_want_of_decoding(width: int, height: int, area: float, seed: int) -> None:
    """A crop of what is decoded has as many pixels as the network sees, if the picture had them."""
    least = least_side(Augmentation(area), SIDE)
    part = next(part for part in (8, 4, 2, 1) if part == 1 or min(width, height) // least >= part)
    decoded = Image.new("RGB", (math.ceil(width / part), math.ceil(height / part)))
    random.seed(seed)
    crop = RandomResizedCropAndInterpolation(SIDE, scale=(area, 1.0))
    _, _, high, wide = crop.get_params(decoded, crop.scale, crop.ratio)
    assert min(high, wide) >= SIDE or part == 1


# Evaluation


def as_numbers(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture)).float().mean(2)


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (1, 2), (3, 0), (7, 1)])
def test_each_picture_is_scored_once_over_all_ranks(folder: Source, size: int, workers: int) -> None:
    batches = [
        batch
        for rank in range(size)
        for batch in evaluation_stream(folder, as_numbers, rank, size, workers, batch_size=4)
    ]
    numbers = torch.cat([batch.numbers for batch in batches]).tolist()
    bad = [name for batch in batches for name in batch.bad]
    good = [index for index in range(COUNT) if "0004" not in folder.name(index)]
    assert numbers == good
    assert len(bad) == 1
    assert torch.cat([batch.labels for batch in batches]).tolist() == [folder.labels[i] for i in good]
    pixels = torch.cat([batch.pixels for batch in batches])
    assert pixels.dtype == torch.float32
    for index, values in zip(good, pixels, strict=True):
        assert torch.equal(values, as_numbers(Image.open(folder.name(index))))
    assert multiprocessing.active_children() == []


def test_an_evaluation_given_up_ends_its_workers(folder: Source) -> None:
    batches = cast("Generator[RawBatch]", evaluation_stream(folder, as_numbers, workers=2, batch_size=1))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_more_ranks_than_pictures(tmp_path: Path) -> None:
    root = class_folder(tmp_path, rows(2))
    source = Folder([(path, 0) for path in sorted(root.rglob("*.png"))])
    counts = [sum(len(b.labels) for b in evaluation_stream(source, as_numbers, r, 5)) for r in range(5)]
    assert sum(counts) == 2


# Unreadable pictures


def test_bad_files_are_told_once_and_counted() -> None:
    told: list[str] = []
    bad = BadFiles(40, 0.05, told.append)
    bad.add(["a.jpg: empty", "b.jpg: cut"])
    bad.add(["b.jpg: cut"])
    bad.add([])
    assert bad.names == ("a.jpg: empty", "b.jpg: cut")
    assert Counter(told) == {
        "   unreadable, left out: a.jpg: empty": 1,
        "   unreadable, left out: b.jpg: cut": 1,
    }
    with pytest.raises(InputError, match=r"3 of 40 images .*--max-unreadable 5%; the first: a.jpg: empty"):
        bad.add(["c.jpg: text"])


@pytest.mark.parametrize(("limit", "allowed"), [(0.0, 0), (0.5, 5), (1.0, 10)])
def test_so_many_may_be_bad(limit: float, allowed: int) -> None:
    bad = BadFiles(10, limit)
    bad.add([f"{number}" for number in range(allowed)])
    if allowed < 10:
        with pytest.raises(InputError):
            bad.add(["one more"])


# Stops

SCRIPT = """
import multiprocessing, signal, sys, time
from pathlib import Path
from efficientformer.data.augmentation import Augmentation
from efficientformer.data.order import Order
from efficientformer.data.sources.folder import Folder
from efficientformer.data.stream import Stream

if __name__ == "__main__":
    came = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _frame: came.append(got))
    samples = [(path, 0) for path in sorted(Path(sys.argv[1]).rglob("*.png"))]
    print("ready", flush=True)
    stream = Stream(Folder(samples), Order(len(samples), 4), Augmentation(), 16, workers=2)
    for step, _ in enumerate(stream.from_step(0)):
        if step == 0:
            print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        time.sleep(0.02)
        if came and step > 150:
            print("stopped", flush=True)
            break
"""


@pytest.fixture
def parent(folder: Source, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that reads by workers, alone in its group."""
    path = tmp_path / "reads.py"
    path.write_text(SCRIPT)
    images = Path(folder.name(0)).parents[1]
    words = [sys.executable, "-W", "error", str(path), str(images)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, start_new_session=True, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        if in_group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def in_group(group: int) -> list[int]:
    """Living processes of a group."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in found.stdout.splitlines())
    return [int(pid) for pid, one, state in rows if int(one) == group and not state.startswith("Z")]


def gone(group: int, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while in_group(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not in_group(group)


@pytest.mark.slow
def test_nothing_outlives_a_killed_parent(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout
    assert len(parent.stdout.readline().split()) == 2
    parent.kill()
    assert gone(parent.pid, 30)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["while workers start", "later"])
def test_a_signal_to_all_stops_the_parent_alone(parent: subprocess.Popen[str], when: str) -> None:
    assert parent.stdout
    if when == "later":
        parent.stdout.readline()
    for number in (signal.SIGINT, signal.SIGTERM) * 4:
        os.killpg(parent.pid, number)
        time.sleep(0.2)
    if when != "later":
        assert len(parent.stdout.readline().split()) == 2
    assert parent.stdout.read() == "stopped\n"
    assert parent.wait(30) == 0
    assert gone(parent.pid, 30)
