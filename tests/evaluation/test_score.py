"""Accuracy and what belongs to it, against scikit-learn, SciPy and plain loops."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from efficientformer.data.batches import normalise
from efficientformer.data.images import Images
from efficientformer.errors import InputError
from efficientformer.evaluation.score import BINS, Accuracy, Score, Tally, class_row, evaluate
from tests.strategies import randomised, tiny

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra demo")


def guessed(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right more often than chance, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return logits + 2 * F.one_hot(labels, classes), labels


def tallied(logits: Tensor, labels: Tensor, batch: int = 64) -> Tally:
    tally = Tally(logits.shape[1])
    for part in zip(logits.split(batch), labels.split(batch), strict=True):
        tally.add(*part)
    return tally


# The tally, against others


@pytest.mark.parametrize(("count", "classes"), [(500, 10), (1, 6), (257, 1000), (90, 7)])
def test_top1_top5_and_confusion_are_scikit_learns(count: int, classes: int) -> None:
    logits, labels = guessed(count, classes)
    found = tallied(logits, labels).accuracy()
    known, every = labels.numpy(), np.arange(classes)
    expected = [
        sklearn_metrics.top_k_accuracy_score(known, logits.numpy(), k=k, labels=every) for k in (1, 5)
    ]
    assert [found.score.top1, found.top5] == pytest.approx(expected)
    confusion = sklearn_metrics.confusion_matrix(known, logits.argmax(1).numpy(), labels=every)
    assert np.array_equal(found.confusion, confusion)
    assert found.confusion.dtype == np.int64
    assert found.score.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert found.score.images == count


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (5, False), (6, True)])
def test_top5_is_given_from_six_classes_on(classes: int, shown: bool) -> None:
    found = tallied(*guessed(40, classes)).accuracy()
    assert (found.top5 is not None) == shown == (found.top5_interval is not None)


@pytest.mark.parametrize(
    ("logits", "label", "first", "five"),
    [
        ([0.0] * 8, 0, 1, 1),  # nothing told apart: the lowest classes are the guesses
        ([0.0] * 8, 4, 0, 1),
        ([0.0] * 8, 5, 0, 0),
        ([0.0, 0, 0, 0, 0, 0, 1, 1], 7, 0, 1),
        ([0.0, 0, 0, 0, 0, 0, 1, 1], 3, 0, 0),
        ([0.0, 0, 0, 0, 0, 0, 1, 1], 2, 0, 1),
    ],
)
def test_of_equal_logits_the_lower_class_is_first(
    logits: list[float], label: int, first: int, five: int
) -> None:
    found = tallied(torch.tensor([logits]), torch.tensor([label])).accuracy()
    assert (found.score.top1, found.top5) == (first, five)


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Guo et al. (2017), equation 3, in a loop."""
    shares = logits.float().log_softmax(1).exp().double().numpy()
    confidence, right = shares.max(1), shares.argmax(1) == labels.numpy()
    total = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            total += inside.sum() / len(labels) * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize(
    ("count", "classes", "scale"), [(400, 10, 1), (400, 10, 20), (3, 2, 1), (900, 30, 0.2)]
)
def test_the_calibration_error_is_guos(count: int, classes: int, scale: float) -> None:
    logits, labels = guessed(count, classes)
    found = tallied(logits * scale, labels).accuracy()
    assert found.calibration_error == pytest.approx(expected_calibration_error(logits * scale, labels))
    assert sum(one.images for one in found.bins) == count
    assert len(found.bins) == BINS
    assert all(one.low < one.confidence <= one.high for one in found.bins if one.confidence is not None)


@pytest.mark.parametrize(
    ("certainty", "right", "error"),
    [(1.0, 10, 0.0), (1.0, 7, 0.3), (0.5, 5, 0.0), (0.75, 3, 0.45)],
)
def test_the_calibration_error_of_a_network_of_one_certainty(
    certainty: float, right: int, error: float
) -> None:
    log = torch.tensor([1 - certainty, certainty]).clamp_min(1e-20).log()
    logits = log.expand(10, 2).clone()
    logits[:, 0] -= 1e-6  # at a certainty of a half the guess is still class 1
    labels = (torch.arange(10) < right).long()
    assert tallied(logits, labels).accuracy().calibration_error == pytest.approx(error, abs=1e-5)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.sampled_from([1, 7, 64]))
def test_parts_add_up_to_the_whole(sizes: list[int], batch: int) -> None:
    logits, labels = guessed(sum(sizes) + 1, 8)
    whole, merged = tallied(logits, labels, batch), Tally(8)
    rest = 0
    for size in (*sizes, 1):
        merged.merge(tallied(logits[rest : rest + size], labels[rest : rest + size]))
        rest += size
    for mine, theirs in zip(merged.state(), whole.state(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6)
    assert merged.score().top1 == whole.score().top1


def test_the_state_is_the_tallys_own_so_that_all_reduce_merges() -> None:
    first, second = tallied(*guessed(30, 6)), tallied(*guessed(50, 6, seed=1))
    for mine, theirs in zip(first.state(), second.state(), strict=True):
        mine += theirs  # what all_reduce does, in place
    assert first.score().images == 80


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_no_numbers_are_an_error(wrong: float) -> None:
    logits, labels = guessed(20, 6)
    logits[3, 2] = wrong
    with pytest.raises(InputError, match="outputs are not numbers for 1 of 20 images"):
        tallied(logits, labels).score()


def test_no_image_is_an_error() -> None:
    with pytest.raises(InputError, match="no image to score"):
        Tally(3).accuracy()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_float_type_are_counted(dtype: torch.dtype) -> None:
    logits, labels = guessed(50, 8)
    kept = logits.to(dtype)
    found = tallied(kept, labels)
    assert found.score().top1 == float((kept.float().argmax(1) == labels).double().mean())


# The score


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_is_wilsons(count: int, share: float) -> None:
    right = round(share * count)
    low, high = Score(right / count, 0.0, count).interval
    expected = scipy.stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= right / count <= high <= 1


def test_no_accuracy_is_printed_without_its_number_of_images() -> None:
    score = Score(0.8125, 0.5, 160)
    assert str(score) == "81.25 % of 160 images"
    document = json.loads(json.dumps(score.to_json()))
    assert {name: document[name] for name in ("top1", "loss", "images")} == dataclasses.asdict(score)
    assert document["interval"] == [round(side, 4) for side in score.interval]


def test_the_document_holds_all_and_each_class() -> None:
    classes = [f"c{index}" for index in range(6)]
    logits, labels = guessed(200, 6)
    found = tallied(logits, labels[:].clamp(max=4)).accuracy(["bad.jpg: empty"])
    document = json.loads(json.dumps(found.to_json(classes)))
    assert document["images"] == 200
    assert document["unreadable"] == {"count": 1, "names": ["bad.jpg: empty"]}
    rows = document["per_class"]
    assert [row["class"] for row in rows] == classes
    assert [row["images"] for row in rows] == found.confusion.sum(1).tolist()
    for index, row in enumerate(rows):
        rebuilt = [row["taken_for"].get(name, 0) for name in classes]
        rebuilt[index] = row["right"]
        assert rebuilt == found.confusion[index].tolist()
    assert rows[5]["accuracy"] is None  # no image of it
    assert rows[0]["accuracy"] == rows[0]["right"] / rows[0]["images"]
    assert rows[0]["interval"] == [
        round(side, 4) for side in Score(rows[0]["accuracy"], 0, rows[0]["images"]).interval
    ]


def test_a_class_names_what_it_is_taken_for_most_often_first() -> None:
    row = class_row(np.array([2, 5, 0, 9]), 1, ["a", "b", "c", "d"])
    assert list(row["taken_for"].items()) == [("d", 9), ("a", 2)]
    assert (row["right"], row["images"]) == (5, 16)


# A network on images in memory


def greys(labels: list[int], values: list[int], side: int = 10) -> Images:
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, side, side, 3)
    return Images(pixels.contiguous(), torch.tensor(labels), ())


class Threshold(nn.Module):
    """Class 1 for images lighter than the mean, class 0 for darker ones, each with the same certainty."""

    def forward(self, x: Tensor) -> Tensor:
        light = (x.mean((1, 2, 3)) > 0).float()
        return torch.stack([1 - light, light], 1) * 2


@pytest.mark.parametrize(
    ("labels", "values", "right"),
    [
        ([0, 0, 1, 1], [0, 10, 250, 240], 4),
        ([1, 1, 0, 0], [0, 10, 250, 240], 0),
        ([0, 1, 1, 1], [0, 10, 250, 240], 3),
        ([0] * 300 + [1] * 300, ([0] * 200 + [250] * 100) + [250] * 300, 500),  # more than one batch
        ([1], [250], 1),
    ],
)
def test_accuracy_and_loss_are_exact(labels: list[int], values: list[int], right: int) -> None:
    score = evaluate(Threshold().train(), greys(labels, values), 8)
    logits = torch.tensor([0.0, 2.0]).log_softmax(0)
    loss = -(right * logits[1] + (len(labels) - right) * logits[0]) / len(labels)
    assert score.top1 == right / len(labels)
    assert score.loss == pytest.approx(float(loss), rel=1e-5)
    assert score.images == len(labels)


def test_a_network_is_scored_in_evaluation_mode_and_without_gradients() -> None:
    network = randomised(tiny()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = Images(torch.randint(0, 256, (5, 37, 37, 3), dtype=torch.uint8), torch.arange(5) % 3, ())
    score = evaluate(network, images, 32)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        logits = network(normalise(images.pixels[:, 2:34, 2:34]))
    assert score.top1 == pytest.approx(float((logits.argmax(1) == images.labels).double().mean()))
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, images.labels)), rel=1e-4)


def test_an_accuracy_is_compared_by_identity() -> None:
    found = tallied(*guessed(20, 6)).accuracy()
    assert isinstance(found, Accuracy)
    assert found != dataclasses.replace(found)  # its matrix has no single truth value
