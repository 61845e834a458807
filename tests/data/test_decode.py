"""Pictures as people have them: each kind is decoded to the right pixels, or refused with a reason."""

from __future__ import annotations

import io
import os
import re
import resource
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from efficientformer.data.decode import as_rgb, read_from, read_picture, without_warnings
from efficientformer.data.sources.folder import Folder

RED, BLUE, GREY, LIGHT = (220, 30, 30), (30, 30, 220), (50, 50, 50), (200, 200, 200)
WIDTH, HEIGHT = 48, 24
Colours = tuple[tuple[int, ...], tuple[int, ...]]


def halves(left: tuple[int, ...] = RED, right: tuple[int, ...] = BLUE, mode: str = "RGB") -> Image.Image:
    """48 × 24, left and right of one colour each."""
    image = Image.new(mode, (WIDTH, HEIGHT), right if len(right) > 1 else right[0])
    image.paste(left if len(left) > 1 else left[0], (0, 0, WIDTH // 2, HEIGHT))
    return image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    return encoded(image or halves(), "jpeg", quality=95, **options)


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def sixteen_bits() -> Image.Image:
    values = np.full((HEIGHT, WIDTH), 200 * 257, dtype=np.uint16)
    values[:, : WIDTH // 2] = 50 * 257
    return Image.fromarray(values)


def palette(**info: object) -> Image.Image:
    image = halves().quantize(4)
    image.info.update(info)
    return image


def turned(orientation: int) -> bytes:
    """Stored so that its orientation makes it upright again."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(halves().transpose(back) if back is not None else halves(), exif=exif)


def frames(form: str, **options: object) -> bytes:
    """The first frame is the picture; those after it are mirrored."""
    return encoded(halves(), form, save_all=True, append_images=[halves(BLUE, RED)] * 2, **options)


def ycck() -> bytes:
    """A CMYK JPEG whose marker says YCCK: luminance 155, no colour, no black is grey of 255 − 155."""
    content = jpeg(Image.new("CMYK", (WIDTH, HEIGHT), (100, 127, 127, 0)))
    place = content.index(b"Adobe") + 11
    return content[:place] + b"\x02" + content[place + 1 :]


def without_adobe(content: bytes) -> bytes:
    place = content.index(b"\xff\xee")
    return content[:place] + content[place + 2 + int.from_bytes(content[place + 2 : place + 4]) :]


def png_of_size(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = encoded(Image.new("RGB", (1, 1)), "png")
    return content[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + content[33:]


def jpeg_of_size(width: int, height: int) -> bytes:
    content = jpeg()
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def interlaced() -> bytes:
    """PIL writes none: Adam7's seven passes of a picture of one colour are as many rows of it."""
    width, height, rows = 8, 8, b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for _ in range(y, height, dy):
            rows += b"\0" + b"".join(bytes(RED if at < 4 else BLUE) for at in range(x, width, dx))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


PAIR: Colours = (RED, BLUE)
NORMAL = (WIDTH, HEIGHT)

DECODED: dict[str, tuple[Callable[[], bytes], tuple[int, int], Colours]] = {
    "jpeg": (jpeg, NORMAL, PAIR),
    "png": (lambda: encoded(halves(), "png"), NORMAL, PAIR),
    "webp": (lambda: encoded(halves(), "webp", lossless=True), NORMAL, PAIR),
    "bmp": (lambda: encoded(halves(), "bmp"), NORMAL, PAIR),
    "tiff": (lambda: encoded(halves(), "tiff"), NORMAL, PAIR),
    "ppm": (lambda: encoded(halves(), "ppm"), NORMAL, PAIR),
    "progressive jpeg": (lambda: jpeg(progressive=True), NORMAL, PAIR),
    "interlaced png": (interlaced, (8, 8), PAIR),
    "16-bit grey png": (lambda: encoded(sixteen_bits(), "png"), NORMAL, (GREY, LIGHT)),
    "16-bit grey tiff": (lambda: encoded(sixteen_bits(), "tiff"), NORMAL, (GREY, LIGHT)),
    "32-bit whole numbers": (
        lambda: encoded(halves((50 * 257,), (200 * 257,), "I"), "tiff"),
        NORMAL,
        (GREY, LIGHT),
    ),
    "grey jpeg": (lambda: jpeg(halves((50,), (200,), "L")), NORMAL, (GREY, LIGHT)),
    "grey png": (lambda: encoded(halves((50,), (200,), "L"), "png"), NORMAL, (GREY, LIGHT)),
    "grey with transparent shade": (
        lambda: encoded(halves((50,), (200,), "L"), "png", transparency=50),
        NORMAL,
        (GREY, LIGHT),
    ),
    "grey and alpha": (
        lambda: encoded(halves((50, 255), (200, 90), "LA"), "png"),
        NORMAL,
        (GREY, LIGHT),
    ),
    "black and white": (
        lambda: encoded(halves((0,), (255,), "L").convert("1"), "png"),
        NORMAL,
        ((0, 0, 0), (255, 255, 255)),
    ),
    "palette": (lambda: encoded(palette(), "png"), NORMAL, PAIR),
    "palette, transparent": (
        lambda: encoded(palette(transparency=bytes((0, 255, 128, 255))), "png"),
        NORMAL,
        PAIR,
    ),
    "alpha": (lambda: encoded(halves((*RED, 255), (*BLUE, 1), "RGBA"), "png"), NORMAL, PAIR),
    "transparent colour": (lambda: encoded(halves(), "png", transparency=RED), NORMAL, PAIR),
    "cmyk jpeg, inverted as Adobe does": (lambda: jpeg(halves().convert("CMYK")), NORMAL, PAIR),
    "cmyk jpeg, no word of Adobe": (
        lambda: without_adobe(jpeg(halves().convert("CMYK"))),
        NORMAL,
        PAIR,
    ),
    "cmyk tiff": (lambda: encoded(halves().convert("CMYK"), "tiff"), NORMAL, PAIR),
    "ycck jpeg": (ycck, NORMAL, ((100, 100, 100), (100, 100, 100))),
    "animated gif": (lambda: frames("gif"), NORMAL, PAIR),
    "animated webp": (lambda: frames("webp", lossless=True), NORMAL, PAIR),
    "animated png": (lambda: frames("png"), NORMAL, PAIR),
    "two pictures in a jpeg": (lambda: frames("mpo", quality=95), NORMAL, PAIR),
    "tiff of several pages": (lambda: frames("tiff"), NORMAL, PAIR),
    "bad colour profile": (lambda: jpeg(icc_profile=b"no profile at all"), NORMAL, PAIR),
    "broken exif": (
        lambda: jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(9)),
        NORMAL,
        PAIR,
    ),
    "exif that is none": (lambda: jpeg(exif=b"Exif\0\0" + bytes(range(40))), NORMAL, PAIR),
    "one pixel": (lambda: encoded(Image.new("RGB", (1, 1), RED), "png"), (1, 1), (RED, RED)),
    "long and thin": (lambda: encoded(Image.new("RGB", (1, 5000), RED), "png"), (1, 5000), (RED, RED)),
    "wide and flat": (lambda: jpeg(Image.new("RGB", (5000, 1), RED)), (5000, 1), (RED, RED)),
    **{
        f"orientation {number}": (lambda number=number: turned(number), NORMAL, PAIR)
        for number in range(1, 9)
    },
}
if features.check("avif"):
    DECODED["avif"] = (lambda: encoded(halves(), "avif", quality=95), NORMAL, PAIR)

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "UnidentifiedImageError: an empty file"),
    "text": (lambda: b"my holiday in Spain\n", "UnidentifiedImageError: no picture"),
    "error page": (lambda: b"<!DOCTYPE html><html>404 Not Found</html>", "no picture"),
    "truncated jpeg": (lambda: half(jpeg(noise())), "OSError: .*truncated"),
    "truncated png": (lambda: half(encoded(noise(), "png")), "OSError: Truncated"),
    "truncated webp": (lambda: half(encoded(noise(), "webp")), "Error: "),
    "truncated gif": (lambda: half(encoded(noise(), "gif")), "OSError: .*truncated"),
    "truncated tiff": (lambda: half(encoded(noise(), "tiff")), "Error: "),
    "head of a jpeg": (lambda: jpeg()[:30], "Error: "),
    "head of a png": (lambda: encoded(halves(), "png")[:8], "no picture, or its head is damaged"),
    "damaged png": (lambda: encoded(noise(), "png").replace(b"IDAT", b"IDAT\xff"), "SyntaxError: .*PNG"),
    "one bit off in a png": (lambda: flipped(encoded(noise(), "png"), 3000), "SyntaxError: .*PNG"),
    "bomb, png": (lambda: png_of_size(100_000, 100_000), "DecompressionBombError: "),
    "bomb, jpeg": (lambda: jpeg_of_size(65_000, 65_000), "DecompressionBombError: "),
    "no width": (lambda: png_of_size(0, 10), "Error: "),
    "no size, gif": (lambda: b"GIF89a" + bytes(7), "Error: "),
    "fractions": (
        lambda: encoded(Image.new("F", (8, 8), 0.5), "tiff"),
        "ValueError: its pixels are floating-point numbers",
    ),
    "a program": (lambda: encoded(halves(), "eps"), "UnidentifiedImageError: no picture"),
}


def readings(content: bytes, folder: Path) -> list[Image.Image | str]:
    """Read from memory, from a file with a misleading name, and from a source."""
    path = folder / "picture.jpg"
    path.write_bytes(content)
    with without_warnings():
        return [read_picture(content), read_picture(path), read_from(Folder([(path, 0)]), 0)]


@pytest.mark.parametrize("case", DECODED)
def test_decoded(case: str, tmp_path: Path) -> None:
    make, size, (left, right) = DECODED[case]
    for picture in readings(make(), tmp_path):
        assert isinstance(picture, Image.Image), picture
        assert (picture.mode, picture.size) == ("RGB", size)
        pixels = np.asarray(as_rgb(picture)).astype(int)  # once more changes nothing
        quarter = size[0] // 3
        assert np.abs(pixels[:, : max(1, quarter)] - left).max() <= 12  # JPEG rounds colours
        assert np.abs(pixels[:, size[0] - max(1, quarter) :] - right).max() <= 12


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    make, reason = REFUSED[case]
    for said in readings(make(), tmp_path):
        assert isinstance(said, str)
        assert "\n" not in said
        assert " object at 0x" not in said
        assert re.search(reason, said), said


def test_a_giant_is_refused_before_memory_is_taken() -> None:
    content = png_of_size(30_000, 30_000)  # 2.7 GB as RGB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with without_warnings():
        assert str(read_picture(content)).startswith("DecompressionBombError")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def missing(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def forbidden(path: Path) -> None:
    path.write_bytes(jpeg())
    path.chmod(0)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "FileNotFoundError: "),
        (Path.mkdir, "IsADirectoryError: "),
        pytest.param(
            forbidden,
            "PermissionError: ",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything"),
        ),
    ],
)
def test_what_cannot_be_opened(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    make(path)
    assert str(read_picture(path)).startswith(reason)
    assert str(read_from(Folder([(path, 0)]), 0)).startswith(reason)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_pils(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(24).crop((0, 0, 24, 10)), "png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(read_picture(content)), np.asarray(expected))


def test_warnings_are_held_only_for_the_time() -> None:
    before = list(warnings.filters)
    with without_warnings():
        warnings.warn("damaged metadata", stacklevel=1)
    assert list(warnings.filters) == before


# Decoding far larger JPEGs to a part of their size

sides = st.integers(1, 700)


@given(width=sides, height=sides, least=st.integers(1, 300), orientation=st.sampled_from([1, 6]))
def test_no_less_than_needed_is_decoded(width: int, height: int, least: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(jpeg(Image.new("RGB", (width, height), RED), exif=exif), least)
    assert isinstance(picture, Image.Image)
    whole = (width, height) if orientation == 1 else (height, width)
    part = next(part for part in (8, 4, 2, 1) if part == 1 or min(whole) // least >= part)
    assert picture.size == tuple(-(-side // part) for side in whole)
    assert min(picture.size) >= min(least, *whole)


def test_a_part_looks_like_the_whole() -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    content = jpeg(Image.fromarray(np.broadcast_to(ramp[None, :, None], (512, 512, 3)).copy()))
    whole, part = read_picture(content), read_picture(content, 100)
    assert isinstance(whole, Image.Image)
    assert isinstance(part, Image.Image)
    assert part.size == (128, 128)
    expected = np.asarray(whole.resize((128, 128), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(part) - expected).max() <= 4


@pytest.mark.parametrize("form", ["png", "webp", "mpo"])
def test_other_forms_are_decoded_whole_or_to_enough(form: str) -> None:
    picture = read_picture(encoded(noise(256), form), 60)
    assert isinstance(picture, Image.Image)
    assert min(picture.size) >= 60
