"""Real images without a download: scikit-learn's 1,797 handwritten digits, as a folder of images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from efficientformer.data.augmentation import Augmentation
from efficientformer.errors import InputError
from efficientformer.files import write_atomically
from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.pipeline.job import Job, sampling_for
from efficientformer.search.space.search_space import PAPER_KINDS

INPUT_SIZE = 64


def demo_job(data: Path, budget: Budget, target: Target, seed: int) -> Job:
    """The demo's job: the paper's way, a small supernet, minutes on two cores. Digits are not mirrored."""
    return Job(
        data,
        (budget,),
        target,
        input_size=INPUT_SIZE,
        supernet="xs",
        kinds=PAPER_KINDS,
        expansions=(),
        policy="greedy",
        sampling=sampling_for("greedy"),
        supernet_epochs=12,
        epochs=15,
        augmentation=Augmentation(min_area=0.7, flip=False),
        train_unslimmed=True,
        seed=seed,
    )


def write_digits(root: Path) -> Path:
    """Write the digits as `train/<digit>/*.png` and `val/<digit>/*.png`, every fifth for validation.

    They are from the test set of UCI's "Optical Recognition of Handwritten Digits": 8×8 pixels, 17 greys.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the demo needs scikit-learn: pip install 'efficientformer[demo]'") from None
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits["images"], digits["target"], strict=True)):
        path = root / ("val" if index % 5 == 0 else "train") / str(label) / f"{index:04}.png"
        if not path.exists():
            picture, content = Image.fromarray((image * (255 / 16)).round().astype(np.uint8)), io.BytesIO()
            picture.save(content, "png")
            write_atomically(path, content.getvalue())
    return root
