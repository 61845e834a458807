import dataclasses

import pytest
import torch

from efficientformer.data.batches import evaluation_batches
from efficientformer.data.images import Images
from efficientformer.latency.untrained import untrained
from efficientformer.presets import pooling
from efficientformer.search.space.importance import Importance
from efficientformer.search.supernet.importance import block_scores, channel_scores, importance_by


def tiny_images(count: int = 8) -> Images:
    pixels = torch.randint(0, 256, (count, 37, 37, 3), generator=torch.Generator().manual_seed(0))
    return Images(pixels.to(torch.uint8), torch.arange(count) % 3, ())


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([[0.75, 0.25]], (3.0,)),  # α^4D / α^I
        ([[0.5, 0.3, 0.2]], (4.0,)),  # (α^4D + α^3D) / α^I
        ([[0.5, 0.5], [0.9, 0.1]], (1.0, 9.0)),
    ],
)
def test_a_positions_importance_is_the_papers_ratio(
    probabilities: list[list[float]], expected: tuple[float, ...]
) -> None:
    assert importance_by([torch.tensor(probabilities)]).positions[0] == pytest.approx(expected)


def test_a_stages_importance_is_the_sum_over_the_positions_left() -> None:
    importance = Importance(((1.0, 2.0, 4.0), (8.0,), (16.0,), (32.0,)))
    assert importance.stage(0, [0, 1, 2]) == 7
    assert importance.stage(0, [0, 2]) == 5


def test_a_channel_without_effect_scores_zero_and_the_others_do_not() -> None:
    architecture = dataclasses.replace(
        pooling((8, 8, 8, 8), (1, 1, 1, 1), 1), input_size=(32, 32), num_classes=3, distilled=False
    )
    network = untrained(architecture)
    for block in ("stages.0.blocks.0", "stages.3.blocks.0"):
        with torch.no_grad():
            network.get_submodule(f"{block}.mlp.fc2").weight[:, 5] = 0
    scores = channel_scores(network, tiny_images(), 32)
    for key in ("stages.0.blocks.0.pool", "stages.3.blocks.0.attention"):
        assert scores[key][5] == 0
        assert (scores[key] > 0).sum() == len(scores[key]) - 1
    assert set(scores) == {
        "stem",
        *(f"stage.{stage}" for stage in range(4)),
        *(f"stages.{stage}.blocks.0.pool" for stage in range(3)),
        "stages.3.blocks.0.attention",
    }


def test_a_score_is_the_squared_derivative_of_the_loss_by_a_gate() -> None:
    architecture = dataclasses.replace(
        pooling((8, 8, 8, 8), (1, 1, 1, 1), 0), input_size=(32, 32), num_classes=3, distilled=False
    )
    network, images = untrained(architecture).double(), tiny_images(4)
    x, labels = next(evaluation_batches(images, 32))
    conv = network.stages[3].embed.norm

    def loss_with_gate(gate: float) -> float:
        """The residual stream of stage 4 times a gate in channel 2: after the embedding and the block."""
        hooks = [
            module.register_forward_hook(lambda _m, _i, out: out * factor)
            for module in (conv, network.stages[3].blocks["0"])
        ]
        factor = torch.ones(8, 1, 1, dtype=torch.float64)
        factor[2] = gate
        loss = torch.nn.functional.cross_entropy(network(x.double()), labels)
        for hook in hooks:
            hook.remove()
        return loss.item()

    step = 1e-5
    slope = (loss_with_gate(1 + step) - loss_with_gate(1 - step)) / (2 * step)
    assert float(channel_scores(network.float(), images, 32)["stage.3"][2]) == pytest.approx(
        slope**2, rel=1e-2
    )


def test_a_blocks_score_is_the_squared_derivative_by_a_gate_on_what_it_adds() -> None:
    architecture = dataclasses.replace(
        pooling((8, 8, 8, 8), (2, 1, 1, 2), 1), input_size=(32, 32), num_classes=3, distilled=False
    ).with_block(0, 0, "identity")
    network, images = untrained(architecture.compact()).double(), tiny_images(4)
    x, labels = next(evaluation_batches(images, 32))
    attention = network.stages[3].blocks["1"]

    def loss_with_gate(gate: float) -> float:
        hook = attention.register_forward_hook(lambda _m, i, out: i[0] + gate * (out - i[0]))
        loss = torch.nn.functional.cross_entropy(network(x.double()), labels)
        hook.remove()
        return loss.item()

    step = 1e-5
    slope = (loss_with_gate(1 + step) - loss_with_gate(1 - step)) / (2 * step)
    scores = block_scores(network.float(), architecture, images, 32).positions
    assert scores[0][0] == 0 and min(scores[0][1], *scores[1], *scores[2], *scores[3]) > 0
    assert scores[3][1] == pytest.approx(slope**2, rel=1e-2)
