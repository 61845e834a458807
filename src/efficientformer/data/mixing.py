"""What hides or joins images of a training batch on its device: random erasing, mixup, cutmix."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from efficientformer.data.augmentation import Augmentation
from efficientformer.data.uniforms import MIXING


class Mixing:
    """Random erasing (Zhong et al., 2020), then mixup or cutmix of the whole batch, as timm does them.

    Mixed are the images of one process, first with last, so the result depends on the number of processes.

    Args:
        augmentation: of which erase, mixup, cutmix and mix_switch are done here.
        label_smoothing: share of a label that is spread over all classes.
        classes: how many there are.
        seed: of the training.
    """

    def __init__(self, augmentation: Augmentation, label_smoothing: float, classes: int, seed: int) -> None:
        self.erase, self.label_smoothing = augmentation.erase, label_smoothing
        self.classes, self.seed = classes, seed
        self._mixup = None
        if augmentation.mixup or augmentation.cutmix:
            self._mixup = Mixup(
                mixup_alpha=augmentation.mixup,
                cutmix_alpha=augmentation.cutmix,
                switch_prob=augmentation.mix_switch,
                label_smoothing=label_smoothing,
                num_classes=classes,
            )

    def __call__(self, x: Tensor, labels: Tensor, step: int, rank: int = 0) -> tuple[Tensor, Tensor]:
        """A step's images and targets; x is overwritten.

        Images are mixed in pairs. The last one of an odd number (files could not be read) is left out of the
        batch; one alone stays as it is.

        Args:
            x: normalised images (b, 3, h, w).
            labels: int64 (b,).
            step: counted from the start of the training.
            rank: of this process.

        Returns:
            Images (b, 3, h, w) and probabilities of the classes, float32 (b, classes).
        """
        with seeded((self.seed, MIXING, step, rank), x.device):
            if self.erase:
                x = RandomErasing(self.erase, mode="pixel", max_count=1, device=str(x.device))(x)
            if self._mixup is None or len(x) == 1:
                return x, mixup_target(labels, self.classes, smoothing=self.label_smoothing)
            even = len(x) // 2 * 2
            return self._mixup(x[:even], labels[:even])


@contextlib.contextmanager
def seeded(seed: tuple[int, ...], device: torch.device) -> Generator[None, None, None]:
    """While this holds, Python's, NumPy's and torch's generators are seeded; then they go on as before.

    Other threads must not draw from them meanwhile.
    """
    python, numpy, torchs = (int(word) for word in np.random.SeedSequence(seed).generate_state(3))
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        random.seed(python)
        np.random.seed(numpy)
        torch.manual_seed(torchs)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
