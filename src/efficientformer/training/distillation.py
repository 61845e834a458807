"""Learning from a teacher: what it says of a batch, and the loss that follows.

The teacher sees the pixels that the student sees, crops, mixing and all, as in the paper and in DeiT (Touvron
et al., ICML 2021).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from efficientformer.errors import InputError
from efficientformer.evaluation.classifier import Classifier
from efficientformer.training.recipe import Distillation

Outputs = Tensor | tuple[Tensor, Tensor]
"""Logits (b, classes) of a network with one classifier; of both, where there are two."""
_Triple = tuple[float, float, float]


class Teacher:
    """A classifier that is shown a student's batches.

    Args:
        classifier: of any kind; one that is a module must be on the student's device.
        mapping: int64 (classes,), the output of each of the data set's classes (`labels.outputs_of`).
        mean: of the student's normalisation, by channel.
        std: the same.

    Raises:
        InputError: if an index of the mapping is not one of the outputs.
    """

    def __init__(
        self,
        classifier: Classifier,
        mapping: np.ndarray,
        mean: _Triple = IMAGENET_DEFAULT_MEAN,
        std: _Triple = IMAGENET_DEFAULT_STD,
    ) -> None:
        if not len(mapping) or mapping.min() < 0 or mapping.max() >= classifier.outputs:
            raise InputError(f"{classifier.name}: has {classifier.outputs} outputs, not all those asked for")
        own_mean, own_std = (
            torch.tensor(three) for three in (classifier.protocol.mean, classifier.protocol.std)
        )
        self.classifier, self._mapping = classifier, torch.from_numpy(mapping)
        self._factor = (torch.tensor(std) / own_std)[:, None, None]
        self._shift = ((torch.tensor(mean) - own_mean) / own_std)[:, None, None]
        self._same = classifier.protocol.mean == mean and classifier.protocol.std == std

    @property
    def classes(self) -> int:
        """How many logits it gives for an image."""
        return len(self._mapping)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """What it says of a batch, under the autocast that holds.

        Args:
            x: (b, 3, side, side) as the student takes it: mixed, erased, normalised.

        Returns:
            float32 (b, classes): logits of the data set's classes, so that a softmax is over those alone.
        """
        logits = self.classifier.logits(self.prepare(x)).float()
        return logits.index_select(1, self._mapping)

    def close(self) -> None:
        """End the process of a teacher that is an exported file."""
        self.classifier.close()

    def prepare(self, x: Tensor) -> Tensor:
        """A student's batch at the teacher's size, in the teacher's normalisation: (b, 3, crop, crop)."""
        if self._mapping.device != x.device:
            self._factor, self._shift, self._mapping = (
                one.to(x.device) for one in (self._factor, self._shift, self._mapping)
            )
        crop = self.classifier.protocol.crop
        if not self._same:  # before resizing: a student's images are the smaller ones, as a rule
            x = torch.addcmul(self._shift, x, self._factor)
        if x.shape[-2:] == (crop, crop):
            return x
        return F.interpolate(x, (crop, crop), mode="bicubic", antialias=True)


def prepare_student(student: nn.Module, kind: Distillation) -> int:
    """Have a network with two classifiers give the logits of both while it trains; how many it has.

    The first then learns from the labels, the second from the teacher. A single classifier learns from both,
    as in DeiT's equation 3.

    Raises:
        InputError: if it has two, and no way to give both.
    """
    get = getattr(student, "get_classifier", None)
    heads = get() if callable(get) else None
    if not isinstance(heads, (tuple, list)) or len(heads) != 2:
        return 1
    switch = getattr(student, "set_distilled_training", None)
    if callable(switch):
        switch(True)
    elif kind != "none":
        raise InputError(f"{type(student).__name__} has two classifiers, but gives their mean alone")
    return 2


def distillation_loss(
    outputs: Outputs,
    targets: Tensor,
    teacher_logits: Tensor | None = None,
    kind: Distillation = "none",
    share: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """The loss of a batch, in float32.

    none: the mean over the classifiers of the cross-entropy to the targets.
    hard: (1 − share) · cross-entropy of the first classifier to the targets + share · cross-entropy of the
        second to the class that the teacher holds most probable (the paper; DeiT, equation 3).
    soft: the second term is temperature² · KL(teacher ‖ student), both at the temperature, summed over
        classes and averaged over images (Hinton et al., 2015; timm). DeiT's code divides by the number of
        classes as well, which leaves next to nothing of it for ImageNet's 1000.

    Args:
        outputs: a network's with one classifier serve as both.
        targets: (b, classes), shares that sum to 1: one-hot, smoothed, mixed.
        teacher_logits: (b, classes).
        kind: which.
        share: of the teacher, 0 to 1.
        temperature: of soft distillation.

    Raises:
        InputError: if the teacher's logits are missing, or of other classes.
    """
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    heads = tuple(head.float() for head in heads)
    if kind == "none":
        return torch.stack([F.cross_entropy(head, targets) for head in heads]).mean()
    if teacher_logits is None or teacher_logits.shape != heads[-1].shape:
        given = None if teacher_logits is None else tuple(teacher_logits.shape)
        raise InputError(
            f"{kind} distillation needs a teacher's logits {tuple(heads[-1].shape)}, not {given}"
        )
    if kind == "hard":
        taught = F.cross_entropy(heads[-1], teacher_logits.argmax(1))
    else:
        taught = _divergence(heads[-1], teacher_logits.float(), temperature)
    return (1 - share) * F.cross_entropy(heads[0], targets) + share * taught


def _divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    student = F.log_softmax(logits / temperature, 1)
    teacher = F.log_softmax(teacher_logits / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
