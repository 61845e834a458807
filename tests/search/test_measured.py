"""Networks are measured, machines change, files are slower than their networks: what is expected then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.search.measured import Measured
from tests.search.policies.test_greedy import SPACE

ONE, OTHER = SPACE.largest, SPACE.smallest()
MS, FACTOR = st.floats(0.1, 100), st.floats(0.5, 2)


def test_before_any_file_was_measured_networks_take_what_they_took() -> None:
    measured = Measured()
    measured.learn(ONE, 1.9, 2.0, 1.1)
    measured.learn(ONE, 2.0, 2.2, 1.2)
    assert measured.file_ms(ONE) == measured.untrained_ms(ONE) == measured.verified[ONE] == 2.2
    assert (measured.predicted[ONE], measured.scale, measured.proofs[ONE]) == (1.9, 1.2, 0)


@given(one_ms=MS, other_ms=MS, machine=FACTOR, training=FACTOR)
def test_a_proof_tells_the_machine_from_the_training(
    one_ms: float, other_ms: float, machine: float, training: float
) -> None:
    measured = Measured()
    measured.learn(ONE, 1.0, one_ms, 1.0)
    measured.learn(OTHER, 1.0, other_ms, 1.0)
    measured.learn(ONE, 1.0, one_ms * machine * training, 1.0, one_ms * machine)
    assert measured.file_ms(ONE) == pytest.approx(measured.verified[ONE])
    assert measured.untrained_ms(OTHER) == pytest.approx(other_ms * machine)
    assert measured.file_ms(OTHER) == pytest.approx(other_ms * machine * training)
    third_ms = 3.0
    measured.learn(SPACE.between()[1], 1.0, third_ms, 1.0)  # measured on the machine as it is now
    assert measured.file_ms(SPACE.between()[1]) == pytest.approx(third_ms * training)


def test_a_file_that_was_measured_first_is_its_own_measure() -> None:
    measured = Measured()
    measured.learn(ONE, 1.0, 2.2, 1.0, 2.0)
    assert measured.file_ms(ONE) == pytest.approx(2.2)
    assert measured.proofs[ONE] == 1
