"""The receipt: what it says of its samples, and how far it trusts them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.latency.measurement import FORMAT, Conditions, Measurement, drawn_rounds, joined

RUNS = Path(__file__).parents[2] / "docs" / "runs"
TIMES = st.floats(1e-3, 1e3)
SHARES = st.floats(0, 4)
ROUNDS = st.lists(st.lists(TIMES, min_size=1, max_size=12), min_size=1, max_size=12)
CONDITIONS = st.builds(
    Conditions,
    st.integers(0, 5),
    st.booleans(),
    st.lists(st.integers(0, 63), max_size=4).map(tuple),
    st.integers(0, 30),
    st.integers(1, 3),
    st.none() | st.tuples(TIMES, TIMES),
    st.none() | SHARES,
    st.none() | SHARES,
    SHARES,
)


def receipt(samples: Any, sizes: tuple[int, ...] = (), **conditions: Any) -> Measurement:
    taken = tuple(map(float, samples))
    return Measurement(
        "model", "target", taken, {"cores": "2"}, "2026-01-01", sizes, Conditions(**conditions)
    )


UNKNOWN = Conditions()


def in_rounds(rounds: list[list[float]], conditions: Conditions = UNKNOWN) -> Measurement:
    one = receipt([sample for part in rounds for sample in part], tuple(map(len, rounds)))
    return dataclasses.replace(one, conditions=conditions)


def scattered(spread: float, count: int = 101, **conditions: Any) -> Measurement:
    """Its interquartile range over its median is the spread."""
    return receipt(7 * np.linspace(1 - spread, 1 + spread, count), **conditions)


# Medians, percentiles, intervals


@given(ROUNDS)
def test_the_interval_contains_the_median_and_lies_within_the_samples(rounds: list[list[float]]) -> None:
    one = in_rounds(rounds)
    low, high = one.interval_ms
    assert min(one.samples_ms) <= low <= one.median_ms <= high <= max(one.samples_ms)
    assert one.median_ms == statistics.median(one.samples_ms)
    assert one.interval_ms == dataclasses.replace(one).interval_ms  # the same each time


@given(ROUNDS)
def test_one_sample_in_ten_at_most_lies_beyond_p10_and_p90(rounds: list[list[float]]) -> None:
    one = in_rounds(rounds)
    assert one.p10_ms <= one.median_ms <= one.p90_ms
    assert sum(sample < one.p10_ms for sample in one.samples_ms) <= 0.1 * len(one.samples_ms)
    assert sum(sample > one.p90_ms for sample in one.samples_ms) <= 0.1 * len(one.samples_ms)


@pytest.mark.parametrize("count", [1, 30, 299])
def test_p99_is_not_told_from_fewer_than_300_samples(count: int) -> None:
    assert receipt(range(1, count + 1)).p99_ms is None


@pytest.mark.parametrize("count", [300, 1000, 5000])
def test_one_sample_in_a_hundred_at_most_lies_beyond_p99(count: int) -> None:
    one = receipt(range(1, count + 1))
    assert one.p99_ms is not None
    assert 0 < sum(sample > one.p99_ms for sample in one.samples_ms) <= 0.01 * count


def simulated(seed: int, rounds: int = 16, samples: int = 6, launches: int = 0) -> Measurement:
    """Samples whose true median is 10 ms; each round, and launch, has a slow or fast spell of its own."""
    random = np.random.default_rng(seed)
    spells, noise = random.normal(0, 0.3, (rounds, 1)), random.normal(0, 0.1, (rounds, samples))
    if launches:
        spells = spells + np.repeat(random.normal(0, 0.3, (launches, 1)), rounds // launches, axis=0)
    return receipt((10 + spells + noise).ravel(), (samples,) * rounds).under(launches=launches)


def covered(receipts: list[Measurement]) -> float:
    return statistics.fmean(one.interval_ms[0] <= 10 <= one.interval_ms[1] for one in receipts)


def test_the_interval_holds_the_true_median_95_times_in_100() -> None:
    receipts = [simulated(seed) for seed in range(200)]
    assert 0.88 <= covered(receipts) <= 0.99
    alone = [dataclasses.replace(one, rounds=()) for one in receipts]  # as if samples knew no spells
    assert covered(alone) < 0.75
    assert all(a.median_ms == b.median_ms for a, b in zip(receipts, alone, strict=True))


def test_launches_are_drawn_before_their_rounds() -> None:
    receipts = [simulated(seed, rounds=40, launches=8) for seed in range(100)]
    as_one = [one.under(launches=1) for one in receipts]  # as if rounds knew no launches
    assert 0.85 <= covered(receipts) <= 1
    assert covered(as_one) < covered(receipts)


@pytest.mark.parametrize(("rounds", "launches"), [(12, 3), (12, 0), (7, 3), (5, 1), (1, 1)])
def test_draws_take_whole_launches(rounds: int, launches: int) -> None:
    draws = drawn_rounds(rounds, launches, 50)
    assert draws.shape == (50, rounds)
    assert (draws.min(), draws.max()) >= (0, 0)
    assert draws.max() < rounds
    each = rounds // launches if launches and rounds % launches == 0 else rounds
    for draw in draws:
        assert all(len({index // each for index in part}) == 1 for part in np.split(draw, rounds // each))


def test_samples_that_stand_for_themselves_have_the_interval_of_the_order_statistics() -> None:
    """With rounds of one sample the bootstrap must agree with the binomial law."""
    samples = np.sort(np.random.default_rng(0).lognormal(0, 0.3, 400))
    low, high = scipy.stats.binom(400, 0.5).interval(0.95)
    expected = samples[int(low)], samples[int(high)]
    assert receipt(samples).interval_ms == pytest.approx(expected, rel=0.02)


def test_a_long_round_is_stood_for_by_some_of_its_order_statistics() -> None:
    random = np.random.default_rng(0)
    rounds = 10 + random.normal(0, 0.3, (12, 1)) + random.normal(0, 0.1, (12, 3000))
    whole, few = receipt(rounds.ravel(), (3000,) * 12), receipt(rounds[:, :100].ravel(), (100,) * 12)
    assert whole.interval_ms == pytest.approx(few.interval_ms, abs=0.05)


def test_more_rounds_narrow_the_interval_and_more_samples_a_round_hardly_do() -> None:
    def width(rounds: int, samples: int) -> float:
        intervals = [simulated(seed, rounds, samples).interval_ms for seed in range(8)]
        return statistics.fmean(high - low for low, high in intervals)

    assert width(160, 6) < 0.6 * width(16, 6)
    assert width(16, 60) > 0.6 * width(16, 6)


# The verdict


@pytest.mark.parametrize(
    ("one", "verdict", "reason"),
    [
        (scattered(0), "stable", None),
        (scattered(0.09), "stable", None),
        (scattered(0.11), "noisy", "the interquartile range is 11% of the median"),
        (scattered(0.24), "noisy", "24% of the median"),
        (scattered(0.26), "unusable", "26% of the median"),
        (scattered(0, sentinel_ms=(2.0, 2.19)), "stable", None),
        (scattered(0, sentinel_ms=(2.0, 2.22)), "noisy", "took 1.11 times as long at one end"),
        (scattered(0, sentinel_ms=(2.22, 2.0)), "noisy", "took 1.11 times as long at one end"),
        (scattered(0, sentinel_ms=(2.0, 2.6)), "unusable", "throttled or busy"),
        (scattered(0, others_cores=0.3), "stable", None),
        (scattered(0, others_cores=0.4), "noisy", "other programs kept 0.4 of 2 cores busy"),
        (scattered(0, others_cores=1.4), "unusable", "other programs kept 1.4 of 2 cores busy"),
        (scattered(0, stolen_cores=0.05), "stable", None),
        (scattered(0, stolen_cores=0.06), "noisy", "the hypervisor gave 0.06 cores to others"),
        (scattered(0, stolen_cores=0.3), "unusable", "the hypervisor gave 0.30 cores"),
        (scattered(0, 10), "stable", None),
        (scattered(0, 9), "unusable", "only 9 samples"),
        (scattered(0, load=64.0), "stable", None),
        (receipt([1.0] * 60, (5,) * 12).under(set_aside=6), "stable", None),  # a third
        (receipt([1.0] * 60, (5,) * 12).under(set_aside=7), "noisy", "37% of the rounds were set aside"),
        (receipt([1.0] * 60, (5,) * 12).under(set_aside=19), "unusable", "61% of the rounds"),
    ],
)
def test_the_verdict_and_its_reason(one: Measurement, verdict: str, reason: str | None) -> None:
    assert one.verdict == verdict
    assert len(one.reasons) == (reason is not None)
    assert (reason or "") in "".join(one.reasons)


def test_the_worst_complaint_decides_and_all_are_told() -> None:
    one = scattered(0.15, 9, others_cores=2.0, stolen_cores=0.1, sentinel_ms=(1.0, 1.2))
    assert one.verdict == "unusable"
    assert len(one.reasons) == 5


@given(ROUNDS, CONDITIONS)
def test_a_receipt_is_stable_if_and_only_if_it_has_no_complaint(
    rounds: list[list[float]], conditions: Conditions
) -> None:
    one = in_rounds(rounds, conditions)
    assert (one.verdict == "stable") is (one.reasons == ())
    assert not any("\n" in reason for reason in one.reasons)


def test_the_spread_is_the_interquartile_range_over_the_median() -> None:
    one = scattered(0.2)
    assert one.spread == pytest.approx(scipy.stats.iqr(one.samples_ms) / np.median(one.samples_ms))


def test_a_few_stragglers_do_not_spoil_the_verdict() -> None:
    assert receipt([1.0] * 90 + [50.0] * 10).verdict == "stable"


# Writing and reading


@given(ROUNDS, CONDITIONS)
def test_json_round_trip(rounds: list[list[float]], conditions: Conditions) -> None:
    one = in_rounds(rounds, conditions)
    document = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert Measurement.from_json(document) == one
    assert document["format"] == FORMAT == "efficientformer.measurement/2"
    assert document["samples"] == len(one.samples_ms)
    assert document["interval_ms"] == list(one.interval_ms)
    assert (document["verdict"], document["reasons"]) == (one.verdict, list(one.reasons))


@pytest.mark.parametrize("run", ["digits", "imagenette-96"])
def test_receipts_of_format_1_are_read(run: str) -> None:
    summary = json.loads((RUNS / run / "summary.json").read_text())
    kept = next(one["latency"] for one in summary["contenders"] if one["name"] == "slimmed")
    assert kept["format"] in ("efficientformer.measurement/1", FORMAT)
    one = Measurement.from_json(kept)
    assert (one.median_ms, len(one.samples_ms)) == (pytest.approx(kept["median_ms"]), kept["samples"])
    assert (one.p10_ms, one.p90_ms) == pytest.approx((kept["p10_ms"], kept["p90_ms"]), rel=1e-3)


def test_format_1_knew_the_load_alone() -> None:
    kept = {
        "model": "m",
        "target": "t",
        "samples_ms": [1.0, 2.0],
        "fingerprint": {},
        "date": "d",
        "load": 1.5,
    }
    one = Measurement.from_json(kept)
    assert (one.rounds, one.conditions) == ((), Conditions(load=1.5))
    assert Measurement.from_json(one.to_json()) == one


def test_no_latency_is_printed_without_count_spread_and_verdict() -> None:
    assert str(receipt([2.0] * 27 + [3.0] * 3)) == "2.000 ms (p10–p90 2–3, n=30, stable)"


# Receipts of several launches as one


def test_joined_receipts_keep_every_sample_and_round() -> None:
    parts = [in_rounds([[1.0, 2.0], [3.0]]), in_rounds([[4.0], [5.0, 6.0]])]
    one = joined(parts)
    assert one.samples_ms == (1, 2, 3, 4, 5, 6)
    assert one.rounds == (2, 1, 1, 2)
    assert [part.tolist() for part in one.by_round()] == [[1, 2], [3], [4], [5, 6]]
    assert (one.model, one.target, one.date) == (parts[0].model, parts[0].target, parts[0].date)


def test_joined_conditions() -> None:
    first = Conditions(1, True, (3,), 2, sentinel_ms=(1.0, 1.2), others_cores=0.2, load=0.5)
    last = Conditions(1, True, (3,), 3, sentinel_ms=(1.2, 1.3), others_cores=0.4, load=0.7)
    one = joined([in_rounds([[1.0]], first), in_rounds([[1.0]], last)])
    worst = {"sentinel_ms": (1.0, 1.2), "others_cores": 0.4, "stolen_cores": None}
    assert one.conditions == Conditions(2, True, (3,), 5, load=0.7, **worst)
    loose = joined([in_rounds([[1.0]], first), in_rounds([[1.0]], dataclasses.replace(last, pinned=False))])
    assert loose.conditions.pinned is False


@given(ROUNDS, CONDITIONS)
def test_one_part_joined_is_itself(rounds: list[list[float]], conditions: Conditions) -> None:
    one, again = in_rounds(rounds, conditions), joined([in_rounds(rounds, conditions)])
    assert again.samples_ms == one.samples_ms
    assert again.rounds == one.rounds
    assert again.conditions.others_cores == pytest.approx(conditions.others_cores, abs=6e-4)


def test_more_can_be_known_of_the_conditions_later() -> None:
    one = receipt([1.0], load=2.0)
    assert one.under(launches=3, pinned=True).conditions == Conditions(3, True, load=2.0)
    assert one.conditions == Conditions(load=2.0)
