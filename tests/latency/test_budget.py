from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.latency.budget import Budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8ms", Budget(ms=8)),
        ("8 ms", Budget(ms=8)),
        (" 8ms\n", Budget(ms=8)),
        ("0.5ms", Budget(ms=0.5)),
        (".5ms", Budget(ms=0.5)),
        ("007ms", Budget(ms=7)),
        ("500us", Budget(ms=0.5)),
        ("2s", Budget(ms=2000)),
        ("0.02s", Budget(ms=20)),
        ("50%", Budget(share=0.5)),
        ("12.5 %", Budget(share=0.125)),
        ("100%", Budget(share=1)),
    ],
)
def test_what_is_read(text: str, expected: Budget) -> None:
    budget = Budget.parse(text)
    assert budget.ms == pytest.approx(expected.ms)
    assert budget.share == pytest.approx(expected.share)


@given(st.integers(1, 100_000), st.integers(0, 3), st.sampled_from(["ms", "%"]))
def test_it_is_written_as_people_wrote_it(digits: int, places: int, unit: str) -> None:
    number = digits / 10**places
    if unit == "ms" or number <= 100:
        assert str(Budget.parse(f"{number:.{places}f}{unit}")) == f"{number:.10g}{unit}"


@pytest.mark.parametrize(("one", "other"), [("700us", "0.7ms"), ("0.0003s", "0.3ms"), ("7%", "7.0 %")])
def test_equal_budgets_are_equal(one: str, other: str) -> None:
    assert Budget.parse(one) == Budget.parse(other)


NO_UNIT, NOT_POSITIVE, TOO_MUCH = "give a number and its unit", "must be above zero", "at most 100%"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", NO_UNIT),
        ("8", NO_UNIT),
        ("ms", NO_UNIT),
        ("%", NO_UNIT),
        ("8.ms", NO_UNIT),
        ("8,5ms", NO_UNIT),
        ("1e3ms", NO_UNIT),
        ("-8ms", NO_UNIT),
        ("+8ms", NO_UNIT),
        ("8MS", NO_UNIT),
        ("8min", NO_UNIT),
        ("8ms 9ms", NO_UNIT),
        ("8 m s", NO_UNIT),
        ("1_000ms", NO_UNIT),
        ("nanms", NO_UNIT),
        ("infms", NO_UNIT),
        ("٨ms", NO_UNIT),  # an Arabic eight: float() would take it
        ("0ms", NOT_POSITIVE),
        ("0.000s", NOT_POSITIVE),
        ("0%", NOT_POSITIVE),
        ("100.1%", TOO_MUCH),
        ("500%", TOO_MUCH),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text("0123456789.-+emus% \n", max_size=8))
def test_nothing_else_than_an_input_error_comes_of_any_text(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except InputError:
        return
    assert (budget.ms is None) != (budget.share is None)


@given(st.floats(0.01, 99_999))
def test_what_is_printed_can_be_read(ms: float) -> None:
    again = Budget.parse(str(Budget(ms=ms)))
    assert again.ms == pytest.approx(ms, rel=1e-4)


@pytest.mark.parametrize("text", ["2000s", "0.01us", "12.3456789ms", "33.3333333%"])
def test_what_is_printed_is_what_was_read(text: str) -> None:
    budget = Budget.parse(text)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("budget", "unslimmed_ms", "expected_ms"),
    [(Budget(ms=8), 20, 8), (Budget(ms=8), 4, 8), (Budget(share=0.5), 20, 10), (Budget(share=1), 3, 3)],
)
def test_resolve(budget: Budget, unslimmed_ms: float, expected_ms: float) -> None:
    assert budget.resolve(unslimmed_ms) == expected_ms
