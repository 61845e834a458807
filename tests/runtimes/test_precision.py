"""A receipt says a precision: no file is timed under another than it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from efficientformer.errors import InputError
from efficientformer.latency.subjects import subject
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES, Settings, Traced

SHAPE = (1, 3, 16, 16)
IMAGES = np.random.default_rng(0).standard_normal((4, *SHAPE[1:]), dtype=np.float32)


def network() -> nn.Module:
    parts = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 5)
    return nn.Sequential(*parts)


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime", "int8"), ("openvino", "int8"), ("tflite", "int8"), ("torch", "bf16")],
)
def test_a_file_is_measured_in_the_precision_it_holds_and_in_no_other(
    runtime: str, precision: str, tmp_path: Path
) -> None:
    files = {one: tmp_path / f"{one}{RUNTIMES[runtime].suffix}" for one in ("fp32", precision)}
    for held, path in files.items():
        RUNTIMES[runtime].export(Traced(network(), SHAPE), path, held, IMAGES if held == "int8" else None)
    for held, path in files.items():
        for asked in files:
            target = Target(runtime, precision=asked)
            if held == asked:
                found = subject(str(path), targets=[target])
                assert found.image == SHAPE[1:]
                assert found.file(target) == path
            else:
                with pytest.raises(InputError, match=held) as caught:
                    RUNTIMES[runtime].load(path, Settings(precision=asked))
                assert str(path) in str(caught.value)
