"""The figures of an audit, against plain ones."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from efficientformer.latency.table import Fit, Prediction
from efficientformer.latency.table.audit import Audit, Held
from tests.latency.table.made import TARGET, receipt
from tests.strategies import tiny


def audit(pairs: Sequence[tuple[float, float]], plus_minus_ms: float = 0.1) -> Audit:
    held = [
        Held(tiny(num_classes=index + 1), Prediction(said, plus_minus_ms), receipt(took))
        for index, (said, took) in enumerate(pairs)
    ]
    return Audit(str(TARGET), held, Fit(), 1, 2.5)


@pytest.mark.parametrize(
    ("pairs", "median", "largest", "bias", "spearman"),
    [
        ([(1, 1), (2, 2), (3, 3)], 0.0, 0.0, 0.0, 1.0),
        ([(1.1, 1), (2, 2), (2.7, 3)], 0.1, 0.1, 0.0, 1.0),
        ([(1, 2), (2, 1), (3, 3)], 0.5, 1.0, 0.0, 0.5),
        ([(3, 1), (2, 2), (1, 3)], 2 / 3, 2.0, 0.0, -1.0),
        ([(1.2, 1), (2.4, 2), (3.3, 3), (4.4, 4)], 0.15, 0.2, 0.15, 1.0),
    ],
)
def test_errors_and_ranks(
    pairs: list[tuple[float, float]], median: float, largest: float, bias: float, spearman: float
) -> None:
    found = audit(pairs)
    assert found.median_error == pytest.approx(median)
    assert found.max_error == pytest.approx(largest)
    assert found.bias == pytest.approx(bias)
    assert found.spearman == pytest.approx(spearman)


def test_a_slow_batch_is_no_error_of_the_table() -> None:
    """The second network was measured on a machine that was half as slow again as at the calibration."""
    took = [(1.0, 0.4), (3.0, 0.6), (2.5, 0.4)]
    held = [
        Held(tiny(num_classes=n + 1), Prediction(ms, 0.1), receipt(ms_then).under(reference_ms=speed), 0.4)
        for n, (ms, (ms_then, speed)) in enumerate(zip((1.1, 2.0, 2.5), took, strict=True))
    ]
    found = Audit(str(TARGET), held, Fit(), 1, 2.5)
    assert [one.took_ms for one in held] == pytest.approx([1, 2, 2.5])
    assert [one.error for one in held] == pytest.approx([0.1, 0, 0])
    assert (found.max_error, found.spearman) == pytest.approx((0.1, 1.0))
    assert [one.within for one in held] == [False, True, True]
    raw = found.to_json()["raw"]
    assert raw["max_error_percent"] == pytest.approx(100 / 3)
    assert raw["spearman"] == pytest.approx(0.5)
    assert raw["slowed"] == pytest.approx([1.0, 1.5])


def test_the_document_has_every_figure_and_network() -> None:
    found = audit([(1.05, 1), (2.3, 2), (3, 3)])
    document = json.loads(json.dumps(found.to_json()))
    expected = {
        "networks": 3,
        "median_error_percent": 5.0,
        "max_error_percent": 15.0,
        "spearman": 1.0,
        "target": str(TARGET),
        "spread_percent": 0.0,
        "date": "2025-01-01",
        "seed": 1,
        "within_interval": 2 / 3,  # 0.3 ms off, 0.1 said
        "verdicts": {"stable": 3, "noisy": 0, "unusable": 0},
    }
    for key, value in expected.items():
        assert document[key] == pytest.approx(value), key
    assert [one["measured_median_ms"] for one in document["held"]] == [1, 2, 3]
    assert [one["predicted_ms"] for one in document["held"]] == [1.05, 2.3, 3]
