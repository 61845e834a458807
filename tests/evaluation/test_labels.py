"""Which output is which class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data import ImageNetInfo

from efficientformer.errors import InputError
from efficientformer.evaluation.labels import outputs_of

WNIDS = ImageNetInfo("imagenet-1k").label_names()
NUMBERS = [f"{number:04}" for number in range(1000)]
PETS = ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("classes", "outputs", "own", "wanted"),
    [
        (PETS, 3, None, [0, 1, 2]),
        (PETS, 3, PETS, [0, 1, 2]),
        (PETS, 3, ("dog", "eel", "cat"), [2, 0, 1]),
        (("dog", "eel"), 3, PETS, [1, 2]),
        (("n01440764", "n03888257"), 1000, None, [0, 701]),
        (("n01440764_tench", "n03888257_parachute"), 1000, None, [0, 701]),
        (("n01440764", "n03888257"), 1001, None, [1, 702]),
        (WNIDS, 1000, None, range(1000)),
        (WNIDS[::-1], 1000, None, range(999, -1, -1)),
        (NUMBERS, 1000, None, range(1000)),
        (("n01440764_tench",), 2, ("n03888257", "n01440764"), [1]),
        (("n01440764",), 2, ("n03888257_parachute", "n01440764_tench"), [1]),
        (WNIDS[:3], 3, None, [0, 1, 2]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_classes_find_their_outputs(
    classes: list[str], outputs: int, own: list[str] | None, wanted: list[int]
) -> None:
    found = outputs_of(classes, outputs, own)
    assert found.dtype == np.int64
    assert found.tolist() == list(wanted)


def test_the_larger_imagenets_are_timms() -> None:
    large = ImageNetInfo("imagenet-12k").label_names()
    assert outputs_of(("n01440764",), len(large)).tolist() == [large.index("n01440764")]


@given(st.sets(st.text(max_size=4), min_size=1, max_size=8).map(sorted).flatmap(st.permutations), st.data())
def test_names_are_kept(own: list[str], data: st.DataObject) -> None:
    classes = data.draw(st.lists(st.sampled_from(own), min_size=1, unique=True))
    assert [own[at] for at in outputs_of(classes, len(own), own)] == classes


@pytest.mark.parametrize(
    ("classes", "outputs", "own", "reason"),
    [
        (PETS, 10, None, r"x has 10 outputs of unknown names, the data have 3 classes \(cat, dog, eel\): no"),
        (PETS, 1000, None, r"1000 outputs \(n01440764, n01443537, n01484850, …\), .* 3 classes .*: cat is"),
        (("n01440764", "dog"), 1001, None, r"1001 outputs \(background, .*: dog is not among its outputs"),
        (PETS, 3, ("cat", "dog", "elk"), r"3 outputs \(cat, dog, elk\), .*: eel is not among its outputs"),
        (PETS, 3, ("cat", "dog"), "x has 3 outputs, but names for 2 classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_said(
    classes: tuple[str, ...], outputs: int, own: tuple[str, ...] | None, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        outputs_of(classes, outputs, own, "x")
