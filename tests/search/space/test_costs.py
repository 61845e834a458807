import pytest

from efficientformer import InputError
from efficientformer.layers import Layer
from efficientformer.search.space.costs import Remembered, Window, predicted_ms
from tests.search.made_up import SPACE, MacsCosts


def test_a_network_costs_the_base_and_its_layers() -> None:
    costs, network = MacsCosts(), SPACE.largest
    count = len(network.layers())
    assert predicted_ms(costs, network) == pytest.approx(0.02 + network.macs / 2e7 + 0.005 * count)


def test_remembered_costs_ask_once_for_each_layer() -> None:
    asked: list[Layer] = []

    class Counting(MacsCosts):
        def cost_ms(self, layer: Layer) -> float:
            asked.append(layer)
            return super().cost_ms(layer)

    costs = Remembered(Counting())
    assert predicted_ms(costs, SPACE.largest) == predicted_ms(MacsCosts(), SPACE.largest)
    assert predicted_ms(costs, SPACE.largest) == predicted_ms(MacsCosts(), SPACE.largest)
    assert sorted(map(str, asked)) == sorted(map(str, set(SPACE.largest.layers())))


@pytest.mark.parametrize(("ms", "distance"), [(0.5, 0.5), (1.0, 0.0), (1.5, 0.0), (2.0, 0.0), (2.25, 0.25)])
def test_a_window_tells_how_far_away_a_latency_is(ms: float, distance: float) -> None:
    window = Window(1.0, 2.0)
    assert window.distance(ms) == distance
    assert window.holds(ms) == (distance == 0)


@pytest.mark.parametrize("ends", [(2.0, 1.0), (-1.0, 1.0), (0.0, 0.0)])
def test_a_window_without_latencies_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="window"):
        Window(*ends)
