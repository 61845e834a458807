from __future__ import annotations

import io
import os
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efficientformer import InputError
from efficientformer.data import images as module
from efficientformer.data.decode import square
from efficientformer.data.images import Images, decode, refuse_unreadable
from efficientformer.data.sources.base import Source
from efficientformer.data.sources.folder import Sample
from efficientformer.progress import Progress
from tests.conftest import MakeImages

SIDE = 16
RED, BLUE = (220, 30, 30), (30, 30, 220)
DARK, LIGHT = (50, 50, 50), (200, 200, 200)


def halves(left: tuple[int, ...] = RED, right: tuple[int, ...] = BLUE, mode: str = "RGB") -> Image.Image:
    """A picture of 48 × 24, its left half of one colour and its right half of another."""
    image = Image.new(mode, (48, 24), right if len(right) > 1 else right[0])
    image.paste(left if len(left) > 1 else left[0], (0, 0, 24, 24))
    return image


def quantised() -> Image.Image:
    image = halves().quantize(4)
    image.info["transparency"] = bytes((0, 255, 128, 255))  # one byte a colour: PIL warns of these
    return image


def sixteen_bits() -> Image.Image:
    values = np.full((24, 48), 200 * 257, dtype=np.uint16)
    values[:, :24] = 50 * 257
    return Image.fromarray(values)


def turned(path: Path, orientation: int, back: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().transpose(back).save(path, exif=exif, quality=95)


def animated(path: Path) -> None:
    frames = [halves(BLUE, RED).quantize(8) for _ in range(3)]
    halves().quantize(8).save(path, save_all=True, append_images=frames)


def long_and_thin(path: Path) -> None:
    Image.new("RGB", (1, 500), RED).save(path)


def damaged_exif(path: Path) -> None:
    halves().save(path, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + bytes(9), quality=95)


Write = Callable[[Path], None]

ODD_BUT_FINE: list[tuple[str, Write, tuple[int, ...], tuple[int, ...]]] = [
    ("plain.png", lambda p: halves().save(p), RED, BLUE),
    ("plain.jpg", lambda p: halves().save(p, quality=95), RED, BLUE),
    ("plain.webp", lambda p: halves().save(p, lossless=True), RED, BLUE),
    ("plain.bmp", lambda p: halves().save(p), RED, BLUE),
    ("plain.tiff", lambda p: halves().save(p), RED, BLUE),
    ("plain.ppm", lambda p: halves().save(p), RED, BLUE),
    ("wrong-suffix.jpg", lambda p: halves().save(p, "png"), RED, BLUE),
    ("upper.JPG", lambda p: halves().save(p, "jpeg", quality=95), RED, BLUE),
    ("grey.jpg", lambda p: halves((50,), (200,), "L").save(p), DARK, LIGHT),
    ("grey-alpha.png", lambda p: halves((50, 255), (200, 90), "LA").save(p), DARK, LIGHT),
    ("bits.png", lambda p: halves((0,), (255,), "L").convert("1").save(p), (0, 0, 0), (255, 255, 255)),
    ("cmyk.jpg", lambda p: halves().convert("CMYK").save(p, quality=95), RED, BLUE),
    ("cmyk.tif", lambda p: halves().convert("CMYK").save(p), RED, BLUE),
    ("alpha.png", lambda p: halves((*RED, 255), (*BLUE, 1), "RGBA").save(p), RED, BLUE),
    ("palette.png", lambda p: halves().quantize(4).save(p), RED, BLUE),
    ("palette-transparent.png", lambda p: quantised().save(p), RED, BLUE),
    ("animated.gif", animated, RED, BLUE),
    ("half-turn.jpg", lambda p: turned(p, 3, Image.Transpose.ROTATE_180), RED, BLUE),
    ("quarter-turn.jpg", lambda p: turned(p, 6, Image.Transpose.ROTATE_90), RED, BLUE),
    ("other-quarter-turn.jpg", lambda p: turned(p, 8, Image.Transpose.ROTATE_270), RED, BLUE),
    ("mirrored.jpg", lambda p: turned(p, 2, Image.Transpose.FLIP_LEFT_RIGHT), RED, BLUE),
    ("damaged-exif.jpg", damaged_exif, RED, BLUE),
    ("one-pixel.png", lambda p: Image.new("RGB", (1, 1), RED).save(p), RED, RED),
    ("thin.png", long_and_thin, RED, RED),
]


def decode_one(path: Path) -> np.ndarray:
    images = decode([(path, 3)], SIDE, path.with_name("cache"))
    assert images.unreadable == ()
    assert images.labels.tolist() == [3]
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.shape == (1, SIDE, SIDE, 3)
    return images.pixels[0].numpy().astype(int)


@pytest.mark.parametrize(
    ("name", "write", "left", "right"), ODD_BUT_FINE, ids=[row[0] for row in ODD_BUT_FINE]
)
def test_odd_files_are_decoded(
    name: str, write: Write, left: tuple[int, ...], right: tuple[int, ...], tmp_path: Path
) -> None:
    write(tmp_path / name)
    pixels = decode_one(tmp_path / name)
    assert np.abs(pixels[:, :5] - left).max() <= 12  # JPEG rounds colours
    assert np.abs(pixels[:, -5:] - right).max() <= 12


@pytest.mark.parametrize("name", ["sixteen-bits.png", "sixteen-bits.tif"])
def test_sixteen_bits_are_scaled_to_eight(name: str, tmp_path: Path) -> None:
    sixteen_bits().save(tmp_path / name)
    pixels = decode_one(tmp_path / name)
    assert np.abs(pixels[:, :5] - DARK).max() <= 2
    assert np.abs(pixels[:, -5:] - LIGHT).max() <= 2


def jpeg(share: float = 1.0) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "jpeg")
    return stream.getvalue()[: int(share * stream.tell())]


def huge_png() -> bytes:
    """A valid PNG head that promises 100,000 × 100,000 pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "png")
    content = stream.getvalue()
    return content[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + content[33:]


UNREADABLE: list[tuple[str, bytes, str]] = [
    ("truncated.jpg", jpeg(0.5), "OSError: .*truncated"),
    ("nothing.jpg", b"", "UnidentifiedImageError"),
    ("text.jpg", b"this was a picture once\n" * 50, "UnidentifiedImageError"),
    ("page.png", b"<!DOCTYPE html><html>404 Not Found</html>", "UnidentifiedImageError"),
    ("head-only.png", b"\x89PNG\r\n\x1a\n", "UnidentifiedImageError"),
    ("noise.webp", b"RIFF\x00\x01\x00\x00WEBPVP8 " + bytes(range(200)), "OSError"),
    ("bomb.png", huge_png(), "DecompressionBombError"),
]


@pytest.mark.parametrize(("name", "content", "reason"), UNREADABLE, ids=[row[0] for row in UNREADABLE])
def test_unreadable_files_are_named_counted_and_left_out(
    name: str, content: bytes, reason: str, tmp_path: Path, make_images: MakeImages
) -> None:
    good = sorted(make_images({"cat": 3}).rglob("*.png"))
    (tmp_path / name).write_bytes(content)
    samples = [(good[0], 0), (tmp_path / name, 1), (good[1], 2), (good[2], 3)]
    stream = io.StringIO()
    images = decode(samples, SIDE, tmp_path / "cache", Progress(stream))
    assert images.labels.tolist() == [0, 2, 3]
    assert len(images) == len(images.pixels) == 3
    (named,) = images.unreadable
    assert named.startswith(f"{tmp_path / name}: {reason.partition(':')[0]}")
    assert "\n" not in named
    assert f"unreadable, left out: {named}" in stream.getvalue()
    with pytest.raises(InputError, match=reason):
        decode([(tmp_path / name, 0)], SIDE, tmp_path / "alone")


@pytest.mark.parametrize(
    ("limit", "decoded"), [(48 * 24, True), (48 * 24 - 1, True), (48 * 24 // 2 - 1, False)]
)
def test_a_decompression_bomb_is_left_out(
    limit: int, decoded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves().save(tmp_path / "picture.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # PIL warns beyond it, refuses beyond its double
    samples = [(tmp_path / "picture.png", 0)]
    if decoded:
        assert len(decode(samples, SIDE, tmp_path / "cache")) == 1
    else:
        with pytest.raises(InputError, match="DecompressionBombError"):
            decode(samples, SIDE, tmp_path / "cache")


def part(good: int, *unreadable: str) -> Images:
    return Images(torch.zeros(good, 1, 1, 3), torch.zeros(good), unreadable)


@pytest.mark.parametrize(
    ("parts", "limit", "message"),
    [
        ([part(19, "a: b")], 0.05, None),
        ([part(18, "a: b", "c: d")], 0.05, "2 of 20 .* more than --max-unreadable 5%; the first: a: b"),
        ([part(20)], 0.0, None),
        ([part(19, "a: b")], 0.0, "1 of 20 images are unreadable, more than --max-unreadable 0%"),
        ([part(1, "a: b"), part(20), part(19)], 0.05, None),  # it is the share of all that counts
        ([part(10), part(4, "x: y"), part(4, "a: b")], 0.05, "2 of 20 .*; the first: x: y"),
        ([part(1, "a: b")], 1.0, None),
        ([], 0.05, None),
    ],
)
def test_too_many_unreadable_files_stop_the_run(
    parts: list[Images], limit: float, message: str | None
) -> None:
    if message is None:
        refuse_unreadable(parts, limit)
    else:
        with pytest.raises(InputError, match=message) as caught:
            refuse_unreadable(parts, limit)
        assert "\n" not in str(caught.value)


def test_none_readable_is_refused_each_time(tmp_path: Path, make_images: MakeImages) -> None:
    samples = [(path, 0) for path in sorted(make_images({"cat": 3}).rglob("*.png"))]
    for path, _ in samples:
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(InputError, match=f"none of 3 images is readable; the first: {samples[0][0]}: "):
            decode(samples, SIDE, tmp_path / "cache")


def test_a_link_to_nowhere_is_named_and_left_out(tmp_path: Path, make_images: MakeImages) -> None:
    root = make_images({"cat": 3})
    (root / "cat" / "link.png").symlink_to(tmp_path / "nowhere.png")
    samples = [(path, 0) for path in sorted((root / "cat").iterdir())]
    (named,) = decode(samples, SIDE, tmp_path / "cache").unreadable
    assert named.startswith(f"{root / 'cat' / 'link.png'}: FileNotFoundError")


# Samples of images


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (40, 40), (100, 100), (1000, 100)])
def test_a_sample_has_so_many_images_each_once(count: int, expected: int) -> None:
    labels = torch.arange(100)
    images = Images(labels.to(torch.uint8).expand(1, 1, 3, -1).permute(3, 0, 1, 2), labels, ("a: b",))
    chosen, again = images.sample(count), images.sample(count)
    assert len(set(chosen.labels.tolist())) == len(chosen) == expected
    assert torch.equal(chosen.pixels[:, 0, 0, 0].long(), chosen.labels)
    assert torch.equal(chosen.labels, again.labels)
    assert chosen.unreadable == ()


def test_a_sample_mixes_the_classes() -> None:
    labels = torch.arange(5).repeat_interleave(40)  # sorted, as folders are read
    chosen = Images(torch.zeros(200, 1, 1, 3), labels, ()).sample(50)
    assert torch.bincount(chosen.labels, minlength=5).min() >= 3


# The square


def test_the_short_side_is_fitted_and_the_centre_kept() -> None:
    columns = np.arange(80, dtype=np.uint8) * 3  # a smooth ramp, 80 wide and 40 high
    ramp = Image.fromarray(np.broadcast_to(columns[None, :, None], (40, 80, 3)).copy())
    expected = 3 * (20 + (np.arange(SIDE) + 0.5) * 40 / SIDE - 0.5)  # from column 20 to column 60
    for image, along in ((ramp, 1), (ramp.transpose(Image.Transpose.TRANSPOSE), 0)):
        pixels = square(image, SIDE).astype(float)
        assert np.abs(pixels.mean((1 - along, 2)) - expected).max() < 1.5


@pytest.mark.parametrize("side", [16, 24, 40])
def test_a_square_picture_is_resampled_bicubically(side: int, make_images: MakeImages) -> None:
    image = Image.open(next(make_images({"cat": 1}, side=40).rglob("*.png")))
    expected = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    assert np.array_equal(square(image, side), expected)


# The cache


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []
    real = module._read

    def counting(source: Source, index: int, side: int) -> np.ndarray | str:
        names.append(Path(source.name(index)).name)
        return real(source, index, side)

    monkeypatch.setattr(module, "_read", counting)
    return names


def listed(root: Path) -> list[Sample]:
    return [(path, index % 2) for index, path in enumerate(sorted(root.rglob("*.png")))]


def same(first: Images, second: Images) -> bool:
    return torch.equal(first.pixels, second.pixels) and torch.equal(first.labels, second.labels)


def test_the_cache_is_used_again(tmp_path: Path, make_images: MakeImages, decoded: list[str]) -> None:
    samples = listed(make_images({"cat": 6}))
    first = decode(samples, SIDE, tmp_path / "new" / "train.images")
    second = decode(samples, SIDE, tmp_path / "new" / "train.images")
    assert len(decoded) == 6
    assert same(first, second)


def test_the_cache_remembers_what_is_unreadable(
    tmp_path: Path, make_images: MakeImages, decoded: list[str]
) -> None:
    samples = listed(make_images({"cat": 6}))
    samples[1][0].write_bytes(b"")
    first, second = (decode(samples, SIDE, tmp_path / "cache") for _ in range(2))
    assert len(decoded) == 6
    assert first.unreadable == second.unreadable != ()
    assert second.labels.tolist() == [0, 0, 1, 0, 1]


def replace(samples: list[Sample]) -> list[Sample]:
    Image.new("RGB", (40, 40), BLUE).save(samples[2][0])
    return samples


def touch(samples: list[Sample]) -> list[Sample]:
    os.utime(samples[2][0], ns=(1, 1))
    return samples


@pytest.mark.parametrize(
    ("change", "side"),
    [
        (replace, SIDE),
        (touch, SIDE),
        (lambda samples: samples[1:], SIDE),
        (lambda samples: samples[::-1], SIDE),
        (lambda samples: [(path, 7) for path, _ in samples], SIDE),
        (lambda samples: samples, SIDE + 1),
    ],
    ids=["replaced", "touched", "one less", "another order", "other labels", "another side"],
)
def test_the_cache_is_made_anew_when_anything_changed(
    change: Callable[[list[Sample]], list[Sample]],
    side: int,
    tmp_path: Path,
    make_images: MakeImages,
    decoded: list[str],
) -> None:
    samples = listed(make_images({"cat": 6}))
    decode(samples, SIDE, tmp_path / "cache")
    decoded.clear()
    changed = change(samples)
    again = decode(changed, side, tmp_path / "cache")
    assert sorted(decoded) == sorted(path.name for path, _ in changed)
    assert same(again, decode(changed, side, tmp_path / "fresh"))


def test_a_decoding_that_was_stopped_begins_anew(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = listed(make_images({"cat": 6}))
    decode(samples, SIDE, tmp_path / "cache")
    other = samples[::-1]

    def stop(source: Source, index: int, side: int) -> np.ndarray | str:
        if source.name(index) == str(other[4][0]):
            raise KeyboardInterrupt
        return real(source, index, side)

    real = module._read
    with monkeypatch.context() as patched:
        patched.setattr(module, "_read", stop)
        with pytest.raises(KeyboardInterrupt):
            decode(other, SIDE, tmp_path / "cache")
    for wanted in (samples, other):  # neither the old description nor half an array is believed
        given = decode(wanted, SIDE, tmp_path / "cache")
        assert same(given, decode(wanted, SIDE, tmp_path / "fresh"))


def test_what_is_done_to_the_pixels_stays_in_memory(tmp_path: Path, make_images: MakeImages) -> None:
    samples = listed(make_images({"cat": 2}))
    images = decode(samples, SIDE, tmp_path / "cache")
    before = images.pixels.clone()
    images.pixels.zero_()
    assert torch.equal(decode(samples, SIDE, tmp_path / "cache").pixels, before)


def test_files_are_decoded_in_their_order_over_several_chunks(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [(path, index) for index, (path, _) in enumerate(listed(make_images({"a": 7})))]
    whole = decode(samples, SIDE, tmp_path / "whole")
    monkeypatch.setattr(module, "_CHUNK", 3)
    stream = io.StringIO()
    parts = decode(samples, SIDE, tmp_path / "parts", progress=Progress(stream, every_s=0))
    assert same(whole, parts)
    assert parts.labels.tolist() == list(range(7))
    assert [line.split(" · ")[1] for line in stream.getvalue().splitlines()] == [
        f"{done}/7" for done in range(1, 8)
    ]
    for (path, _), pixels in zip(samples, whole.pixels, strict=True):
        assert np.array_equal(square(Image.open(path), SIDE), pixels.numpy())


def test_decoding_leaves_the_filters_of_warnings_alone(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_is_in = threading.Event()
    samples = listed(make_images({"cat": 2}))
    first = Image.open(samples[0][0])

    def slowly(image: Image.Image, side: int) -> np.ndarray:
        if np.array_equal(image, first):
            second_is_in.wait(5)
        else:
            second_is_in.set()
            time.sleep(0.2)  # until the first is out
        return square(image, side)

    monkeypatch.setattr(module, "square", slowly)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        decode(samples, SIDE, tmp_path / "cache")
        assert list(warnings.filters) == before
