"""Somebody else's pretrained file on real photographs: the preparation and the labels must be right."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from efficientformer.evaluation.classifier import Classifier, classifier
from efficientformer.evaluation.labels import outputs_of

DATA = Path(__file__).parents[3] / "shared" / "data"
FILE, SAMPLE, NETTE = "mobilenet-v2-imagenet.tflite", "imagenet-1k-sample.zip", "imagenette-160.zip"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not all((DATA / name).is_file() for name in (FILE, SAMPLE, NETTE)),
        reason=f"the photographs or the network are not here: {FILE}, {SAMPLE}, {NETTE}",
    ),
]


@pytest.fixture(scope="module")
def mobilenet() -> Iterator[Classifier]:
    with classifier(str(DATA / FILE)) as found:
        yield found


def right(network: Classifier, archive: str, pictures: dict[str, int], classes: list[str]) -> float:
    """The share of some pictures of an archive, given their classes, that a network has right."""
    with zipfile.ZipFile(DATA / archive) as packed:
        opened = [Image.open(io.BytesIO(packed.read(name))) for name in pictures]
    x = torch.stack([network.protocol.prepare(picture) for picture in opened])
    outputs = torch.from_numpy(outputs_of(classes, network.outputs, network.classes))
    guesses = network.logits(x)[:, outputs].argmax(1)
    return float((guesses == torch.tensor(list(pictures.values()))).float().mean())


def test_its_bytes_stand_for_numbers_from_minus_one_to_one(mobilenet: Classifier) -> None:
    assert mobilenet.protocol.mean == pytest.approx((127 / 255,) * 3)
    assert mobilenet.protocol.std == pytest.approx((0.5,) * 3, rel=1e-3)
    assert (mobilenet.protocol.resize, mobilenet.protocol.crop) == (256, 224)
    assert (mobilenet.outputs, mobilenet.classes) == (1001, None)


def test_imagenets_thousand_classes(mobilenet: Classifier) -> None:
    """861 of all 1000 pictures are right (the data's own notes: 86 %)."""
    with zipfile.ZipFile(DATA / SAMPLE) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
    classes = [Path(name).stem for name in names]
    share = right(mobilenet, SAMPLE, {name: at for at, name in enumerate(names) if at % 7 == 0}, classes)
    assert 0.80 <= share <= 0.92


def test_imagenettes_ten_classes_of_them(mobilenet: Classifier) -> None:
    """3,814 of all 3,925 validation pictures are right."""
    with zipfile.ZipFile(DATA / NETTE) as packed:
        names = sorted(name for name in packed.namelist() if "val/" in name and name.endswith(".webp"))
    classes = sorted({Path(name).parent.name for name in names})
    chosen = {name: classes.index(Path(name).parent.name) for name in names[::20]}
    assert len(classes) == 10
    assert right(mobilenet, NETTE, chosen, classes) >= 0.94
