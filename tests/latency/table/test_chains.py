"""Rows follow from files: whatever a file's borders cost is gone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given

from efficientformer import Architecture, Layer
from efficientformer.latency.table.chains import EMPTY, Chain, combined, measure_chains, name_of, recipe
from efficientformer.latency.target import Target
from efficientformer.layers import KINDS
from efficientformer.runtimes import RUNTIMES, Session, Settings
from tests.latency.table.made import CALL_MS, chain_ms, fake_ms
from tests.strategies import architectures, tiny


def composed(files: dict[Chain, float]) -> float:
    return sum(weight * chain_ms(chain) for chain, weight in files.items())


@given(architecture=architectures())
def test_a_row_is_the_layer_without_call_and_borders(architecture: Architecture) -> None:
    for layer in architecture.layers():
        assert composed(recipe(layer)) == pytest.approx(fake_ms(layer))


@given(architecture=architectures())
def test_chains_fit_together(architecture: Architecture) -> None:
    """What a layer gives is what the next one takes."""
    stride = {"stem": 4, "embed": 2, "block": 1}
    for layer in architecture.layers():
        for chain in recipe(layer):
            for one, following in itertools.pairwise(chain):
                by = stride[KINDS[one.kind].role]
                assert (one.height // by, one.width // by) == (following.height, following.width)
                assert one.out_width == following.in_width


@given(architecture=architectures())
def test_a_sum_of_rows_is_a_sum_of_files(architecture: Architecture) -> None:
    layers = dict.fromkeys(architecture.layers(), 1.0)
    files = combined(layers, 1.0)
    assert composed(files) == pytest.approx(CALL_MS + sum(map(fake_ms, layers)))


def test_names_tell_chains_apart() -> None:
    layers: list[Layer] = list(dict.fromkeys(tiny().layers()))
    chains: list[Chain] = [EMPTY, *((layer,) for layer in layers), *(tuple(layers[:n]) for n in range(2, 5))]
    assert len({name_of(chain) for chain in chains}) == len(chains)
    assert name_of(EMPTY) == "call"


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    ["onnxruntime", "onnxruntime:precision=int8", "openvino:precision=bf16", "openvino:precision=int8"],
)
def test_chains_are_measured_in_the_targets_precision(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading refuses a file of another precision than it is asked for, but for fp32 and bf16 in OpenVINO."""
    asked, where = list[str](), Target.parse(target)
    runtime = RUNTIMES[where.runtime]
    load = runtime.load

    def noted(path: Path, settings: Settings) -> Session:
        asked.append(settings.precision)
        return load(path, settings)

    monkeypatch.setattr(type(runtime), "load", lambda _, path, settings: noted(path, settings))
    layer = tiny().layers()[1]
    receipts = measure_chains([EMPTY, (layer,), (layer,) * 3], where)
    assert sorted(asked) == sorted(["fp32", *[where.precision] * 3])  # the last is the reference
    (reference_ms,) = {one.conditions.reference_ms for one in receipts.values()}
    assert reference_ms is not None
    assert reference_ms > receipts[name_of(EMPTY)].median_ms
    assert all(one.target == str(where) and one.median_ms > 0 for one in receipts.values())
    assert receipts[name_of(EMPTY)].median_ms == min(one.median_ms for one in receipts.values())
