from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told apart by their colour, 40 images each, 36×36 pixels."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for number in range(40):
            pixels = random.integers(0, 120, (36, 36, 3))
            pixels[..., 2 - index] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root
