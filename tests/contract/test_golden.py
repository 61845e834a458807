"""Every preset's outputs and start are those of `golden.json` (`python -m tests.contract.golden`)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract import golden
from tests.contract.models import NAMES, Size, each_name, label

STORED: dict[str, Any] = json.loads(golden.FILE.read_text())


def close(given: list[float], wanted: list[float], share: float) -> bool:
    """Within a share of the largest number: other processors add in another order."""
    bound = share * max(map(abs, wanted))
    return len(given) == len(wanted) and all(abs(g - w) <= bound for g, w in zip(given, wanted, strict=True))


def test_the_file_is_complete() -> None:
    assert sorted(STORED) == NAMES
    assert all(list(one["outputs"]) == [label(size) for size in golden.SIZES] for one in STORED.values())


@pytest.mark.parametrize("size", golden.SIZES, ids=label)
@each_name
def test_outputs(name: str, size: Size) -> None:
    stored, given = STORED[name]["outputs"][label(size)], golden.outputs(name, size)
    assert set(given) == set(stored)
    assert len(given["logits"]) == 2 * golden.FIRST
    assert {key for key in stored if not close(given[key], stored[key], 1e-3)} == set()


@each_name
def test_start(name: str) -> None:
    stored, given = STORED[name]["start"], golden.start(name)
    assert set(given) == set(stored)
    assert {key for key in stored if not close(given[key], stored[key], 1e-5)} == set()
