"""All tests of one network run one after another, in one process: one network at a time is held in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _name(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("name", "")) if callspec else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [index for index, item in enumerate(items) if HERE in item.path.parents]
    grouped = sorted((items[index] for index in places), key=_name)
    for index, item in zip(places, grouped, strict=True):
        items[index] = item
        item.add_marker(pytest.mark.xdist_group(_name(item)))  # for `--dist loadgroup`
