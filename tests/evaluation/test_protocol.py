"""Protocols, against timm's transforms and our runs' own way."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efficientformer.data.batches import evaluation_batches, normalise
from efficientformer.data.decode import square
from efficientformer.data.images import Images
from efficientformer.errors import InputError
from efficientformer.evaluation.protocol import INTERPOLATIONS, Protocol

SHAPES = ((300, 200), (200, 301), (224, 224), (37, 90), (1000, 31))


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


TIMMS: dict[str, tuple[Protocol, dict[str, Any]]] = {
    "paper": (Protocol.parse("paper", 224), {"crop_pct": 0.875}),
    "timm": (Protocol.parse("timm", 224), {"crop_pct": 0.95}),
    "full": (Protocol.parse("full", 96), {"crop_pct": 1.0, "crop_mode": "squash", "input_size": (3, 96, 96)}),
    "text": (Protocol.parse("128:96:bilinear", 96), {"crop_pct": 0.75, "input_size": (3, 96, 96)}),
    "other mean": (
        Protocol("x", 96, 96, "lanczos", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
        {"crop_pct": 1.0, "input_size": (3, 96, 96), "mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)},
    ),
}


@pytest.mark.parametrize("name", TIMMS)
@pytest.mark.parametrize("size", SHAPES)
def test_pictures_become_what_timm_makes_of_them(name: str, size: tuple[int, int]) -> None:
    protocol, settings = TIMMS[name]
    theirs = timm.data.create_transform(
        **{"input_size": (3, 224, 224), "interpolation": protocol.interpolation, **settings}
    )
    picture = photograph(size)
    assert torch.equal(protocol.prepare(picture), theirs(picture))


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(("resize", "crop"), [(37, 32), (256, 224), (32, 32), (219, 192)])
def test_a_runs_protocol_is_what_it_was_evaluated_by(size: tuple[int, int], resize: int, crop: int) -> None:
    picture = photograph(size)
    stored = {
        "resize": resize,
        "crop": crop,
        "interpolation": "bicubic",
        "mean": list(timm.data.IMAGENET_DEFAULT_MEAN),
        "std": list(timm.data.IMAGENET_DEFAULT_STD),
    }
    pixels = torch.from_numpy(square(picture, resize).copy())[None]
    ((x, _),) = evaluation_batches(Images(pixels, torch.zeros(1), ()), crop)
    for protocol in (Protocol.of_run(stored), Protocol.of_run({"resize": resize, "crop": crop})):
        assert (protocol.name, protocol.square) == ("run", True)
        assert torch.equal(protocol.prepare(picture), x[0])


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1", "LA", "I;16"])
def test_pictures_of_any_mode_are_taken(mode: str) -> None:
    plain = photograph((50, 40))
    picture = Image.new("I;16", (50, 40), 30_000) if mode == "I;16" else plain.convert(mode)
    x = Protocol("x", 32, 24).prepare(picture)
    assert x.shape == (3, 24, 24)
    assert x.dtype == torch.float32
    assert x.isfinite().all()


@pytest.mark.parametrize("square_", [True, False])
def test_orientation_is_applied(square_: bool) -> None:
    picture = photograph((60, 40))
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # the camera was held so that it must be turned to the right
    protocol = Protocol("x", 40, 40, square=square_)
    assert torch.equal(protocol.prepare(turned), protocol.prepare(picture))


@pytest.mark.parametrize(
    ("text", "side", "expected"),
    [
        ("paper", 224, (256, 224, "bicubic", False)),
        ("paper", 192, (219, 192, "bicubic", False)),
        ("timm", 224, (235, 224, "bicubic", False)),
        ("full", 224, (224, 224, "bicubic", True)),
        ("256:224", 224, (256, 224, "bicubic", False)),
        ("256:224:bilinear", 224, (256, 224, "bilinear", False)),
        ("32:32:nearest", 32, (32, 32, "nearest", False)),
    ],
)
def test_texts_are_read(text: str, side: int, expected: tuple[int, int, str, bool]) -> None:
    found = Protocol.parse(text, side)
    assert (found.resize, found.crop, found.interpolation, found.squash) == expected
    assert found.name == text
    assert text in str(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("papre", "protocol 'papre' is not known; give paper, timm, full"),
        ("", "is not known"),
        ("256", "is not known"),
        ("256:224:bicubic:2", "is not known"),
        ("256:x", "is not known"),
        ("-256:224", "is not known"),
        ("200:224", "cannot crop 224 pixels from 200"),
        ("256:192", "crops 192 pixels; the network takes 224"),
        ("256:224:cubic", "interpolation 'cubic'; known: bicubic"),
    ],
)
def test_texts_that_are_none_are_refused_in_a_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Protocol.parse(text, 224)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "run", "resize": 256}, "crop"),
        ({"name": "run", "resize": 256, "crop": 224, "zoom": 2}, "zoom is not known"),
        ({"name": "run", "resize": "256", "crop": 224}, "protocol"),
        ({"name": "run", "resize": 256, "crop": 224, "mean": [0, 0]}, "three numbers"),
        ({"name": "run", "resize": 256, "crop": 224, "std": [1, 0, 1]}, "above zero"),
        ({"name": "run", "resize": 256, "crop": 224, "square": True, "squash": True}, "not squashed"),
        ({"name": "run", "resize": 256, "crop": 0}, "cannot crop 0"),
    ],
)
def test_documents_of_something_else_are_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Protocol.from_json(document)


@given(
    st.integers(1, 300),
    st.integers(0, 100),
    st.sampled_from(INTERPOLATIONS),
    st.booleans(),
    st.tuples(*[st.floats(0.01, 1)] * 3),
)
def test_a_document_gives_the_same_protocol(
    crop: int, margin: int, interpolation: str, squash: bool, triple: tuple[float, float, float]
) -> None:
    protocol = Protocol("x", crop + margin, crop, interpolation, triple, triple, squash=squash)
    again = Protocol.from_json(json.loads(json.dumps(protocol.to_json())))
    assert again == protocol
    assert hash(again) == hash(protocol)


def test_normalisation_is_the_batches_own() -> None:
    pixels = torch.from_numpy(np.asarray(photograph((32, 32))).copy())[None]
    assert torch.equal(Protocol("x", 32, 32).prepare(photograph((32, 32))), normalise(pixels)[0])


def test_names_do_not_change_pictures() -> None:
    protocol = Protocol("x", 40, 32)
    other = dataclasses.replace(protocol, name="y")
    assert torch.equal(protocol.prepare(photograph((50, 40))), other.prepare(photograph((50, 40))))
