"""Other people's figures: each with device and source, each of a network that can be measured here."""

from __future__ import annotations

from collections import Counter

import pytest
import timm

from efficientformer import PRESETS
from efficientformer.latency.published import FIGURES, Published, published_beside


@pytest.mark.parametrize("one", FIGURES, ids=lambda one: f"{one.model} {one.device}")
def test_a_figure_has_device_and_source_and_a_name_that_measure_knows(one: Published) -> None:
    assert one.device
    assert one.source
    assert 0 < one.ms < 1000
    known = one.model in PRESETS or one.model.removeprefix("timm/") in timm.list_models()
    assert known
    assert (one.model in PRESETS) is not one.model.startswith("timm/")


def test_no_figure_is_told_twice() -> None:
    keys = Counter((one.model, one.device, one.source) for one in FIGURES)
    assert set(keys.values()) == {1}


def test_the_papers_own_figures_are_among_them() -> None:
    """arXiv 2206.01191, Table 1: iPhone 12."""
    paper = {one.model: one.ms for one in FIGURES if "2206.01191" in one.source and one.certain}
    ours = {name: ms for name, ms in paper.items() if name in PRESETS}
    assert ours == {"efficientformer_l1": 1.6, "efficientformer_l3": 3.0, "efficientformer_l7": 7.0}


def test_the_figures_of_some_models_in_their_order() -> None:
    found = published_beside(["timm/resnet50", "efficientformer_l7", "unknown", "timm/resnet50"])
    assert list(dict.fromkeys(one.model for one in found)) == ["timm/resnet50", "efficientformer_l7"]
    assert len(found) == sum(one.model in ("timm/resnet50", "efficientformer_l7") for one in FIGURES)
    assert published_beside([]) == []
