"""How accurate a network is, on how many images: counted by batch, on any device, over any processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import Images
from efficientformer.errors import InputError

BINS = 15  # Guo et al. (ICML 2017)
LEAST_FOR_TOP5 = 6  # classes: with five, every network has all of them right
_Z = NormalDist().inv_cdf(0.975)


def wilson(share: float, images: int) -> tuple[float, float]:
    """95 % interval of a share for images of the same kind (Wilson, 1927)."""
    z, n, p = _Z, images, share
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return min(p, max(0.0, middle - reach)), max(p, min(1.0, middle + reach))


@dataclass(frozen=True)
class Score:
    """Accuracy with its number of images.

    Attributes:
        top1: share of images whose first guess is right.
        loss: mean cross-entropy.
        images: how many were scored.
    """

    top1: float
    loss: float
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy for images of the same kind (Wilson's)."""
        return wilson(self.top1, self.images)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return {**asdict(self), "interval": _rounded(self.interval)}

    def __str__(self) -> str:
        return f"{100 * self.top1:.2f} % of {self.images} images"


@dataclass(frozen=True)
class Bin:
    """The images whose first guess has a probability in (low, high].

    Attributes:
        low: see above, and high.
        high: see above.
        images: how many.
        confidence: their mean probability; None if there are none.
        accuracy: the share that is right; None if there are none.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Accuracy:
    """All that is counted of one network on one set of images.

    Attributes:
        score: top-1, loss and images.
        top5: share of images whose class is among the first five guesses; None below six classes.
        confusion: int64 (classes, classes): images of the row's class that were taken for the column's.
        bins: of the probability of the first guess, equally wide, for the calibration.
        unreadable: the files left out, each with the reason.
    """

    score: Score
    top5: float | None
    confusion: np.ndarray
    bins: tuple[Bin, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def top5_interval(self) -> tuple[float, float] | None:
        """95 % interval of `top5` (Wilson's)."""
        return None if self.top5 is None else wilson(self.top5, self.score.images)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the first guess: Σ over bins of images/all · |accuracy − confidence|.

        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, 15 equally wide bins.
        """
        gaps = (
            one.images * abs(one.accuracy - one.confidence)
            for one in self.bins
            if one.accuracy is not None and one.confidence is not None
        )
        return sum(gaps) / self.score.images

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """As a JSON document; the confusion matrix stands in `per_class`, without its zeros."""
        top5 = self.top5_interval
        return {
            **self.score.to_json(),
            "top5": self.top5,
            "top5_interval": top5 and _rounded(top5),
            "calibration_error": self.calibration_error,
            "calibration_bins": [asdict(one) for one in self.bins if one.images],
            "per_class": [class_row(self.confusion[index], index, classes) for index in range(len(classes))],
            "unreadable": {"count": len(self.unreadable), "names": list(self.unreadable)},
        }


def class_row(row: np.ndarray, index: int, classes: Sequence[str]) -> dict[str, Any]:
    """What became of one class's images, given its row of the confusion matrix."""
    images, right = int(row.sum()), int(row[index])
    wrong = {classes[other]: int(row[other]) for other in np.flatnonzero(row) if other != index}
    return {
        "class": classes[index],
        "images": images,
        "right": right,
        "accuracy": right / images if images else None,
        "interval": _rounded(wilson(right / images, images)) if images else None,
        "taken_for": dict(sorted(wrong.items(), key=lambda pair: -pair[1])),
    }


class Tally:
    """Counts over batches. Nothing waits for the device until `score` or `accuracy`.

    Guesses are ordered by logit; of equal logits (int8 files have them) the lower class is first, so that a
    network that tells nothing apart is not called right.

    Args:
        classes: how many.
        device: where logits come from.
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.classes = classes
        counts = classes * classes + 2 * BINS + 2  # confusion, images and right by bin, top 5, not finite
        self._counts = torch.zeros(counts, dtype=torch.int64, device=device)
        self._sums = torch.zeros(1 + BINS, dtype=torch.float64, device=device)  # loss, confidence by bin

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (b, classes) of any float type, labels int64 (b,), on the tally's device."""
        logits, index = logits.float(), labels[:, None]
        log_shares = F.log_softmax(logits, 1)
        own = logits.gather(1, index)
        before = torch.arange(self.classes, device=logits.device) < index
        place = ((logits > own) | ((logits == own) & before)).sum(1)
        guess = logits.argmax(1)
        confidence = log_shares.gather(1, guess[:, None])[:, 0].exp().double()
        in_bin = ((confidence * BINS).ceil() - 1)[:, None] == torch.arange(BINS, device=logits.device)
        confusion = self._counts[: self.classes**2]
        confusion.index_add_(0, labels * self.classes + guess, torch.ones_like(labels))
        self._counts[self.classes**2 :] += torch.cat(
            [
                in_bin.sum(0),
                (in_bin & (guess == labels)[:, None]).sum(0),
                torch.stack([(place < 5).sum(), (~logits.isfinite()).any(1).sum()]),
            ]
        )
        loss = F.nll_loss(log_shares, labels, reduction="none").double().sum()
        self._sums += torch.cat([loss[None], (in_bin * confidence.nan_to_num()[:, None]).sum(0)])

    def state(self) -> tuple[Tensor, Tensor]:
        """All that was counted (int64) and summed (float64). Several processes' states are added up.

        They are the tally's own: adding to them in place (`all_reduce`) merges.
        """
        return self._counts, self._sums

    def merge(self, other: Tally) -> None:
        """Add what another one counted."""
        for mine, theirs in zip(self.state(), other.state(), strict=True):
            mine += theirs.to(mine.device)

    def score(self) -> Score:
        """Top-1 and loss.

        Raises:
            InputError: if an output was not a number, or nothing was counted.
        """
        confusion, rest, sums = self._on_host()
        images = int(confusion.sum())
        if rest[-1]:
            wrong = f"the network's outputs are not numbers for {rest[-1]} of {images} images"
            raise InputError(f"{wrong}: its weights are damaged or diverged")
        if not images:
            raise InputError("no image to score: none was readable")
        return Score(int(confusion.trace()) / images, float(sums[0]) / images, images)

    def accuracy(self, unreadable: Sequence[str] = ()) -> Accuracy:
        """Everything.

        Args:
            unreadable: the files left out, each with the reason.

        Raises:
            InputError: as `score`.
        """
        score = self.score()
        confusion, rest, sums = self._on_host()
        top5 = int(rest[-2]) / score.images if self.classes >= LEAST_FOR_TOP5 else None
        shown = zip(rest[:BINS].tolist(), rest[BINS : 2 * BINS].tolist(), sums[1:].tolist(), strict=True)
        bins = [
            Bin(index / BINS, (index + 1) / BINS, n, total / n if n else None, right / n if n else None)
            for index, (n, right, total) in enumerate(shown)
        ]
        return Accuracy(score, top5, confusion, tuple(bins), tuple(unreadable))

    def _on_host(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts, sums = (tensor.cpu().numpy() for tensor in self.state())
        cells = self.classes**2
        return counts[:cells].reshape(self.classes, self.classes).copy(), counts[cells:], sums


def evaluate(network: nn.Module, images: Images, side: int) -> Score:
    """Score a network in evaluation mode on centre-cropped images.

    Raises:
        InputError: if its outputs are not numbers.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    return score(network.eval(), images, side, device)


@torch.no_grad()
def score(
    logits_of: Callable[[Tensor], Tensor], images: Images, side: int, device: torch.device | str = "cpu"
) -> Score:
    """The same of whatever gives logits, such as an exported file.

    Args:
        logits_of: (b, 3, side, side), normalised → (b, classes).
        images: what to score it on.
        side: pixels of a side that it takes.
        device: where it takes its images.

    Raises:
        InputError: if its outputs are not numbers.
    """
    tally: Tally | None = None
    for x, labels in evaluation_batches(images, side):
        logits = logits_of(x.to(device, non_blocking=True))
        tally = tally or Tally(logits.shape[1], device)
        tally.add(logits, labels.to(device, non_blocking=True))
    if tally is None:
        raise InputError("no image to score: none was readable")
    return tally.score()


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(side, 4) for side in interval]
