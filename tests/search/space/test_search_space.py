import json

import pytest

from efficientformer import PRESETS, InputError, list_models
from efficientformer.search.space.search_space import SUPERNETS, SearchSpace, supernet_space


@pytest.mark.parametrize("name", SUPERNETS)
def test_networks_between_shrink_from_the_largest_to_the_smallest(name: str) -> None:
    space = supernet_space(name, input_size=64, num_classes=10)
    networks = space.between()
    assert networks[0] == space.largest
    assert networks[-1] == space.smallest()
    assert [one.params for one in networks] == sorted({one.params for one in networks}, reverse=True)
    assert [one.macs for one in networks] == sorted({one.macs for one in networks}, reverse=True)


def test_the_largest_supernet_holds_the_papers_networks() -> None:
    space = supernet_space("l7", input_size=224, num_classes=1000)
    for preset in (PRESETS[name] for name in list_models("efficientformer_*")):
        assert all(a <= b for a, b in zip(preset.widths, space.largest.widths, strict=True))
        assert all(a <= b for a, b in zip(preset.depths, space.largest.depths, strict=True))


def test_attention_is_a_choice_in_the_last_two_stages_only() -> None:
    space = supernet_space("xs", input_size=64, num_classes=10)
    assert [space.paths(stage) for stage in range(4)] == [
        ("pool", "identity"),
        ("pool", "identity"),
        ("pool", "attention", "identity"),
        ("pool", "attention", "identity"),
    ]


def test_attention_stays_at_the_end_of_every_calibration_network() -> None:
    for network in supernet_space("m", input_size=64, num_classes=10).between():
        kinds = [b.kind for stage in network.compact().stages for b in stage.blocks]
        assert kinds == sorted(kinds, key=("pool", "attention").index)


def test_json_round_trip() -> None:
    space = supernet_space("s", input_size=96, num_classes=7)
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_an_unknown_supernet_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown supernet 'xxl'; known: xs, s, m, l7"):
        supernet_space("xxl", input_size=64, num_classes=10)
