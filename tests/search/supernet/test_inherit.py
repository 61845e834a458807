import random

import pytest
import torch

from efficientformer.data.images import Images
from efficientformer.latency.untrained import randomise_vectors
from efficientformer.pipeline.slim_training import _of_each_kind
from efficientformer.search.space.search_space import OPEN_KINDS, supernet_space
from efficientformer.search.supernet.importance import channel_scores
from efficientformer.search.supernet.inherit import Ranking, inherit
from efficientformer.search.supernet.supernet import Supernet

SPACE = supernet_space("xs", input_size=32, num_classes=3, kinds=OPEN_KINDS, expansions=(2,))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    built = Supernet(SPACE, layer_scale_init=0.5).eval()
    randomise_vectors(built)
    return built


def ranking(supernet: Supernet) -> Ranking:
    """A reversed order everywhere: the last channels are the best."""
    images = Images(torch.zeros(2, 37, 37, 3, dtype=torch.uint8), torch.tensor([0, 1]), ())
    widths = {
        key: len(score)
        for one in _of_each_kind(SPACE)
        for key, score in channel_scores(inherit(supernet, one), images, 32).items()
    }
    return Ranking({key: torch.arange(width).flip(0) for key, width in widths.items()})


def test_the_best_channels_are_kept_in_their_own_order() -> None:
    ranked = Ranking.of({"stage.0": torch.tensor([0.1, 5.0, 0.3, 5.0])})
    assert ranked.keep("stage.0", 3).tolist() == [1, 2, 3]
    assert ranked.keep("stage.0", 1).tolist() == [1]  # of equals, the first


def test_a_narrowed_network_takes_the_kept_channels_of_every_axis(supernet: Supernet) -> None:
    narrow = SPACE.largest.with_width(0, 16).with_width(1, 48).with_width(3, 96)
    network = inherit(supernet, narrow, ranking(supernet))
    assert network.architecture == narrow.compact()
    embed, source = network.get_submodule("stages.1.embed.conv"), supernet.embeds[0].conv
    assert torch.equal(embed.weight, source.weight[16:, 16:])  # 64 → 48 and 32 → 16, the last ones
    assert torch.equal(network.stem.conv1.weight, supernet.stems["stem"].conv1.weight[8:])
    assert torch.equal(network.stem.conv2.weight, supernet.stems["stem"].conv2.weight[16:, 8:])
    block = network.get_submodule("stages.3.blocks.0")
    whole = supernet.part("stages.3.blocks.0", "attention")
    assert torch.equal(block.mlp.fc1.weight, whole.mlp.fc1.weight[256:, 64:])
    assert torch.equal(block.mlp.fc2.weight, whole.mlp.fc2.weight[64:, 256:])
    assert torch.equal(
        block.token_mixer.qkv.weight,
        whole.token_mixer.qkv.weight[:, 64:],
    )
    assert torch.equal(network.head.classifier.weight, supernet.head.classifier.weight[:, 64:])


def test_a_narrowed_unified_ffn_takes_the_kept_hidden_channels(supernet: Supernet) -> None:
    narrow = SPACE.largest.with_block(1, 0, "ffn").with_width(1, 48).with_expansion(1, 0, 2)
    network = inherit(supernet, narrow, ranking(supernet))
    block = network.get_submodule("stages.1.blocks.0").mlp
    whole = supernet.part("stages.1.blocks.0", "ffn").mlp
    assert torch.equal(block.fc1.conv.weight, whole.fc1.conv.weight[160:, 16:])  # hidden 256 → 96
    assert torch.equal(block.mid.conv.weight, whole.mid.conv.weight[160:])
    assert torch.equal(block.mid.norm.running_var, whole.mid.norm.running_var[160:])
    assert torch.equal(block.fc2.conv.weight, whole.fc2.conv.weight[16:, 160:])
    assert torch.equal(block.fc2.norm.weight, whole.fc2.norm.weight[16:])


def test_smaller_images_take_interpolated_attention_biases(supernet: Supernet) -> None:
    space = supernet_space("xs", input_size=64, num_classes=3)
    with torch.no_grad():
        larger = Supernet(space, layer_scale_init=0.5).eval()
    network = inherit(larger, space.largest.with_input_size(32))
    assert network.architecture.input_size == (32, 32)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_every_weight_of_every_narrow_network_is_filled(supernet: Supernet) -> None:
    """No tensor keeps its random start: two networks from other seeds come out equal."""
    ranked = ranking(supernet)
    generator = random.Random(0)
    for architecture in (*SPACE.between(), *(SPACE.sample(generator) for _ in range(5))):
        torch.manual_seed(1)
        first = inherit(supernet, architecture, ranked).state_dict()
        torch.manual_seed(2)
        second = inherit(supernet, architecture, ranked).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
