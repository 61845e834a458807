"""One encoded picture made RGB pixels, or the reason why it cannot be."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from efficientformer.data.sources.base import Source

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "MPO", "JPEG2000", "TGA", "ICO")
"""PIL knows more, and some of those run programs (EPS runs Ghostscript)."""
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(content: bytes | Path, least_side: int = 0) -> Image.Image | str:
    """A picture in RGB, upright, or why there is none. PIL may warn: see `without_warnings`.

    Args:
        content: the encoded picture, or where it is.
        least_side: pixels that are needed of the short side. A far larger JPEG is decoded to a half, a
            quarter or an eighth, never to less than that: much faster. 0 decodes all of it.
    """
    try:
        with _opened(content) as image:  # the head alone: refuses giants
            if image.format == "PNG":
                with _opened(content) as again:
                    again.verify()  # or a damaged one is black: PIL asks zlib for no more than it gives
            if least_side:
                image.draft(None, (least_side, least_side))
            return as_rgb(image)
    except UnidentifiedImageError as error:
        empty = not content if isinstance(content, bytes) else content.stat().st_size == 0
        return f"{type(error).__name__}: {'an empty file' if empty else 'no picture, or its head is damaged'}"
    except Exception as error:  # decoders raise whatever they like on damaged files
        return f"{type(error).__name__}: {error}".splitlines()[0]


def read_from(source: Source, index: int, least_side: int = 0) -> Image.Image | str:
    """A source's picture in RGB, or why there is none; see `read_picture`."""
    try:
        content = source.read(index)
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror or error}"
    return read_picture(content, least_side)


@contextmanager
def without_warnings() -> Generator[None]:
    """Damaged metadata is no reason to refuse a picture. The filters are the whole process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, its orientation applied.

    Raises:
        ValueError: if its pixels are floating-point numbers.
    """
    turn = _TURNS.get(_orientation(image))
    upright = image.transpose(turn) if turn is not None else image
    if upright.mode.startswith("I;16") or upright.mode == "I":  # 16 bits, which `convert` would clip at 255
        upright = Image.fromarray((np.asarray(upright).clip(0, 65_535) // 257).astype(np.uint8))
    if upright.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if upright.mode in ("P", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    rgb = upright.convert("RGB")
    rgb.info = {}  # the orientation must not be applied again, nor the transparency
    return rgb


def square(image: Image.Image, side: int) -> np.ndarray:
    """An image as uint8 (side, side, 3): orientation applied, RGB, short side to `side`, centre crop."""
    return np.asarray(ImageOps.fit(as_rgb(image), (side, side), Image.Resampling.BICUBIC))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata
        return 1


def _opened(content: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF: not in every build
