from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from efficientformer.latency import measure, worker
from efficientformer.latency.process import Process
from efficientformer.latency.target import Target
from tests.latency.files import conv_file


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of one 32×32 image and three classes."""
    return conv_file(tmp_path_factory.mktemp("small") / "small.onnx")


@pytest.fixture(scope="session")
def small_process(small_file: Path) -> Iterator[Process]:
    """That file in a process that all tests share."""
    with Process(small_file, Target()) as process:
        yield process


class FakeTime:
    """A clock that only the subjects move."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def pass_ms(self, milliseconds: float) -> None:
        self.now_ns += round(milliseconds * 1e6)

    def lasting(self, milliseconds: Iterator[float]) -> Callable[[], None]:
        return lambda: self.pass_ms(next(milliseconds))


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    for module in (measure, worker):
        monkeypatch.setattr(module, "time", clock)
    return clock
