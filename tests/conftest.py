"""What all tests share: hypothesis's profile, one thread for torch, folders of synthetic pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

import efficientformer  # noqa: F401 - before any test imports timm: it repairs torchvision

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start: two suites share two cores

hypothesis.settings.register_profile(
    "house",
    deadline=None,
    max_examples=20,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("house")
torch.set_num_threads(1)

MakeImages = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: started last, one of them would keep one process busy alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports are kept in a folder of this run of the tests, never in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["EFFICIENTFORMER_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def picture(label: int, index: int, side: int = 40) -> Image.Image:
    """Noise tinted by class: a colour anyone can learn."""
    random = np.random.default_rng((label, index))
    pixels = random.integers(0, 100, (side, side, 3))
    pixels[..., label % 3] += 120
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """A factory: `make_images({"cat": 12, "dog": 12}, "data/train")` writes <class>/<nn>.png files."""

    def make(classes: dict[str, int], folder: str = "images", side: int = 40) -> Path:
        root = tmp_path / folder
        for label, (name, count) in enumerate(classes.items()):
            (root / name).mkdir(parents=True)
            for index in range(count):
                picture(label, index, side).save(root / name / f"{index:02}.png")
        return root

    return make
