from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import DropPath, calculate_drop_path_rates
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efficientformer import PRESETS, Architecture, EfficientFormer, InputError, create_model, load_checkpoint
from efficientformer.model.blocks.base import LayerModule
from efficientformer.model.blocks.bias import resize_bias
from efficientformer.presets import pooling, unified
from tests.strategies import architectures, randomise, randomised, relative_difference, tiny


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformer_l3", "efficientformer_l7"])
def test_presets_compute_what_timms_do(name: str) -> None:
    theirs = timm.create_model(name).eval()
    randomise(theirs)
    ours = create_model(name)
    load_checkpoint(ours, theirs.state_dict())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wanted = theirs(x)
    with torch.no_grad():
        given = ours(x)
    assert relative_difference(given, wanted) <= 1e-5
    assert wanted.std() > 1e-2  # the logits say something
    assert ours.architecture.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert ours.architecture.macs == counter.get_total_flops() / 2


def test_training_matches_timms_pair_of_heads() -> None:
    theirs = timm.create_model("efficientformer_l1", num_classes=7)
    randomise(theirs)
    theirs.set_distilled_training(True)
    ours = create_model("efficientformer_l1", num_classes=7)
    load_checkpoint(ours, theirs.state_dict())
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours.set_distilled_training()
        wanted, given = theirs.train()(x), ours.train()(x)
    assert len(given) == 2
    assert all(relative_difference(g, w) <= 1e-5 for g, w in zip(given, wanted, strict=True))


@given(architectures(), st.integers(1, 3))
def test_every_architecture_runs_and_gives_logits(architecture: Architecture, batch: int) -> None:
    network = randomised(architecture)
    x = torch.randn(batch, architecture.in_channels, *architecture.input_size)
    with torch.no_grad():
        features, logits = network.forward_features(x), network(x)
    height, width = architecture.grid(3)
    channels = architecture.widths[3]
    maps = architecture.head == "head2d"
    shape = (batch, channels, height, width) if maps else (batch, height * width, channels)
    assert features.shape == shape
    assert logits.shape == (batch, architecture.num_classes)
    assert torch.isfinite(logits).all()
    assert torch.equal(network.forward_head(features), logits)


@given(architectures())
def test_an_identity_computes_nothing(architecture: Architecture) -> None:
    network, compact = randomised(architecture), EfficientFormer(architecture.compact()).eval()
    for mine, theirs in zip(compact.parameters(), network.parameters(), strict=True):
        mine.data = theirs.data
    for mine, theirs in zip(compact.buffers(), network.buffers(), strict=True):
        mine.copy_(theirs)
    x = torch.randn(1, architecture.in_channels, *architecture.input_size)
    with torch.no_grad():
        assert torch.equal(network(x), compact(x))


@pytest.mark.parametrize("distilled", [True, False])
def test_distilled_training_returns_a_pair(distilled: bool) -> None:
    network = randomised(tiny())
    network.set_distilled_training(distilled)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs, evaluated = network.train()(x), network.eval()(x)
    assert isinstance(outputs, tuple) is distilled
    assert isinstance(evaluated, torch.Tensor)
    shapes = [one.shape for one in (outputs if isinstance(outputs, tuple) else (outputs,))]
    assert shapes == [(2, 3)] * (1 + distilled)


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (64, 32), (33, 32), (1, 1)])
def test_an_image_of_another_size_is_refused(size: tuple[int, int]) -> None:
    network = EfficientFormer(tiny())
    with pytest.raises(InputError, match=r"built for \(32, 32\)") as caught:
        network(torch.zeros(1, 3, *size))
    assert str(size) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attention_sees_the_whole_grid_of_a_rectangle() -> None:
    network = randomised(dataclasses.replace(tiny(), input_size=(64, 96)))
    biases = {name: tuple(p.shape) for name, p in network.named_parameters() if "attention_biases" in name}
    assert biases == {
        "stages.2.blocks.0.token_mixer.attention_biases": (2, 4 * 6),
        "stages.3.blocks.1.token_mixer.attention_biases": (2, 2 * 3),
    }


def test_every_parameter_gets_a_gradient() -> None:
    network = randomised(tiny()).train()
    network.set_distilled_training()
    labels, teacher = network(torch.randn(2, 3, 32, 32))
    (labels.square().sum() + teacher.square().sum()).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []


V1 = dataclasses.replace(pooling((4, 6, 6, 8), (2, 1, 2, 3), 2), input_size=(64, 64), num_classes=3)
V2 = dataclasses.replace(
    unified((4, 6, 6, 8), ([2], [2, 1], [2, 2], [1, 2]), 1), input_size=(64, 64), num_classes=3
)
FAMILIES = pytest.mark.parametrize("architecture", [V1, V2, tiny()], ids=["v1", "v2", "mixed"])


def image(architecture: Architecture, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, architecture.in_channels, *architecture.input_size)


# What stands between input and output


@given(architectures(), st.booleans())
def test_intermediates_are_the_stages_outputs_as_maps(architecture: Architecture, norm: bool) -> None:
    network, x = randomised(architecture), image(architecture)
    seen: list[torch.Tensor] = []
    hooks = [stage.register_forward_hook(lambda *a: seen.append(a[2])) for stage in network.stages]
    with torch.no_grad():
        final, maps = network.forward_intermediates(x, norm=norm)
        for hook in hooks:
            hook.remove()
        assert torch.equal(final, network.forward_features(x))
    for index, (map_, own) in enumerate(zip(maps, seen, strict=True)):
        grid = architecture.grid(index)
        assert map_.shape == (2, architecture.widths[index], *grid)
        if norm and index == 3:
            own = final
        assert torch.equal(map_, own if own.ndim == 4 else own.transpose(1, 2).unflatten(2, grid))


@FAMILIES
@pytest.mark.parametrize("indices", [1, 2, (0,), (1, 2), (-4,)])
def test_intermediates_stop_early(architecture: Architecture, indices: int | tuple[int, ...]) -> None:
    network, x, ran = randomised(architecture), image(architecture), []
    for index, stage in enumerate(network.stages):
        stage.register_forward_hook(lambda *_, index=index: ran.append(index))
    options: dict[str, Any] = {"intermediates_only": True}
    whole = network.forward_intermediates(x, indices, **options)
    assert ran == [0, 1, 2, 3]
    early = network.forward_intermediates(x, indices, stop_early=True, **options)
    chosen = range(4 - indices, 4) if isinstance(indices, int) else [index % 4 for index in indices]
    assert ran[4:] == list(range(max(chosen) + 1))
    assert all(torch.equal(one, other) for one, other in zip(early, whole, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_fmt": "NLC"}, "the intermediates are NCHW maps"),
        ({"stop_early": True}, "set intermediates_only as well"),
        ({"indices": (4,)}, "there are 4"),
        ({"indices": 5}, "there are 4"),
        ({"indices": 0}, "there are 4"),
    ],
)
def test_intermediates_that_there_are_not_are_refused(options: dict[str, Any], message: str) -> None:
    network = randomised(tiny())
    with pytest.raises(InputError, match=message):
        network.forward_intermediates(torch.zeros(1, 3, 32, 32), **options)


@FAMILIES
def test_feature_info_is_what_comes_out(architecture: Architecture) -> None:
    network = randomised(architecture)
    maps = network.forward_intermediates(image(architecture), intermediates_only=True)
    for info, map_ in zip(network.feature_info, maps, strict=True):
        assert info["num_chs"] == map_.shape[1]
        assert info["reduction"] == architecture.input_size[0] // map_.shape[2]
        assert isinstance(network.get_submodule(info["module"]), nn.Module)
    assert network.num_features == maps[-1].shape[1]


# Classifiers


@FAMILIES
@pytest.mark.parametrize("classes", [7, 3, 0])
@pytest.mark.parametrize("pool", [None, "avg", ""])
def test_classifiers_are_made_anew(architecture: Architecture, classes: int, pool: str | None) -> None:
    network, x = randomised(architecture).double(), image(architecture).double()
    features = network.forward_features(x)
    network.reset_classifier(classes, pool)
    assert network.num_classes == network.architecture.num_classes == classes
    assert network.architecture.global_pool == ("" if pool == "" else "avg")
    assert torch.equal(network.forward_features(x), features)
    logits = network(x)
    channels = classes or network.num_features
    unpooled = (2, channels, *features.shape[2:]) if features.ndim == 4 else (2, features.shape[1], channels)
    assert logits.shape == (unpooled if pool == "" else (2, channels))
    assert network.architecture.distilled
    if classes:
        assert sum(parameter.numel() for parameter in network.parameters()) == network.architecture.params
        assert all(one.weight.dtype == torch.float64 for one in network.get_classifier())
    else:
        assert isinstance(network.get_classifier(), nn.Identity)


def test_one_classifier_is_no_tuple() -> None:
    network = randomised(tiny(distilled=False))
    assert network.get_classifier() is network.head.classifier
    network.reset_classifier(5)
    assert network.head.distillation is None


@pytest.mark.parametrize("classes", [-1, 1.5, True, "3"])
def test_classes_that_are_no_number_are_refused(classes: Any) -> None:
    network = randomised(tiny())
    with pytest.raises(InputError, match="whole number from 0"):
        network.reset_classifier(classes)
    assert network.num_classes == 3
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_distilled_training_needs_a_second_classifier() -> None:
    network = randomised(tiny(distilled=False))
    network.set_distilled_training(False)
    with pytest.raises(InputError, match="needs two classifiers: distilled=True"):
        network.set_distilled_training()


@FAMILIES
def test_pre_logits_are_what_the_classifiers_take(architecture: Architecture) -> None:
    network, x = randomised(architecture), image(architecture)
    features = network.forward_head(network.forward_features(x), pre_logits=True)
    assert features.shape == (2, network.num_features)
    wanted = torch.stack([one(features) for one in network.get_classifier()]).mean(0)
    assert torch.allclose(network(x), wanted, atol=1e-5)


# Another input size


@given(architectures(), st.sampled_from(((64, 64), (128, 64), (64, 192))))
def test_another_size_in_place_is_a_network_of_that_size_with_these_weights(
    architecture: Architecture, size: tuple[int, int]
) -> None:
    network = randomised(architecture)
    fresh = EfficientFormer(dataclasses.replace(architecture, input_size=size)).eval()
    source = copy.deepcopy(network)
    network.set_input_size(size)
    assert network.architecture == fresh.architecture
    layers = dict(architecture.named_layers())
    grids = {name: layer.bias_grid for name, layer in fresh.architecture.named_layers() if layer.bias_grid}
    tensors = dict(source.state_dict())
    for name in [name for name in tensors if name.endswith("attention_biases")]:
        layer = next(one for one in grids if name.startswith(f"{one}."))
        tensors[name] = resize_bias(tensors[name], grids[layer], layers[layer].bias_grid)
    fresh.load_state_dict(tensors)
    x = image(network.architecture)
    with torch.no_grad():
        assert torch.equal(network(x), fresh(x))


@FAMILIES
def test_there_and_back_without_interpolation_between_is_the_same_network(architecture: Architecture) -> None:
    network = randomised(architecture)
    before, x = copy.deepcopy(network.state_dict()), image(architecture)
    wanted = network(x)
    network.set_input_size(architecture.input_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network(x), wanted)


@pytest.mark.parametrize(
    ("size", "message"), [(100, "pad to 128×128"), ((64, 70), "pad to 64×96"), (0, "pad to")]
)
def test_a_size_that_does_not_divide_leaves_the_network_as_it_was(
    size: int | tuple[int, int], message: str
) -> None:
    network = randomised(tiny())
    with pytest.raises(InputError, match=message):
        network.set_input_size(size)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_trained_size_keeps_its_number_type_and_gradients() -> None:
    network = randomised(V1).to(torch.bfloat16)
    network.set_input_size(96)
    tables = [p for name, p in network.named_parameters() if name.endswith("attention_biases")]
    assert tables
    assert all(isinstance(table, nn.Parameter) and table.requires_grad for table in tables)
    assert all(table.dtype == torch.bfloat16 for table in tables)


# Training


@FAMILIES
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_drop_path_rises_as_timms(architecture: Architecture, rate: float) -> None:
    network = EfficientFormer(architecture, drop_path_rate=rate)
    blocks = [module for module in network.modules() if hasattr(module, "drop_path")]
    wanted = calculate_drop_path_rates(rate, sum(architecture.depths))
    given = [block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0 for block in blocks]
    assert given == pytest.approx(wanted, abs=1e-6)
    assert all(isinstance(block, LayerModule) for block in blocks)


@pytest.mark.parametrize("rate", [1.0, -0.1, 2, float("nan")])
def test_a_drop_path_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="a probability below 1"):
        EfficientFormer(tiny(), drop_path_rate=rate)


@FAMILIES
def test_dropped_paths_change_training_alone(architecture: Architecture) -> None:
    plain, dropping = randomised(architecture), EfficientFormer(architecture, drop_path_rate=0.5).eval()
    dropping.load_state_dict(plain.state_dict())
    x = image(architecture, 4)
    with torch.no_grad():
        assert torch.equal(dropping(x), plain(x))
        assert not torch.equal(dropping.train()(x), plain.train()(x))


@FAMILIES
def test_checkpointing_gives_the_same_gradients(architecture: Architecture) -> None:
    plain, saving = randomised(architecture).train(), randomised(architecture).train()
    saving.set_grad_checkpointing()
    x = image(architecture)
    outputs = [network(x) for network in (plain, saving)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name
    saving.set_grad_checkpointing(False)
    assert not any(stage.grad_checkpointing for stage in saving.stages)


@FAMILIES
def test_checkpointing_runs_batch_norms_statistics_once(architecture: Architecture) -> None:
    plain, saving = randomised(architecture).train(), randomised(architecture).train()
    saving.set_grad_checkpointing()
    for network in (plain, saving):
        network(image(architecture) * 0 + 1).sum().backward()
    wanted = plain.state_dict()
    different = [
        name
        for name, tensor in saving.state_dict().items()
        if "running" in name and not torch.allclose(tensor, wanted[name], atol=1e-6)
    ]
    assert different == []


# Optimisers


@FAMILIES
def test_bias_tables_and_vectors_do_not_decay(architecture: Architecture) -> None:
    network = randomised(architecture)
    tables = {name for name, _ in network.named_parameters() if name.endswith("attention_biases")}
    assert network.no_weight_decay() == tables
    assert tables
    optimiser = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decays = {
        names[id(p)]: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]
    }
    assert set(decays) == set(names.values())
    for name, decay in decays.items():
        spared = name in tables or network.get_parameter(name).ndim <= 1
        assert decay == (0.0 if spared else 0.05), name


@FAMILIES
def test_layer_wise_rates_rise_from_the_stem_to_the_head(architecture: Architecture) -> None:
    network = randomised(architecture)
    groups = param_groups_layer_decay(
        network, weight_decay=0.05, no_weight_decay_list=network.no_weight_decay(), layer_decay=0.5
    )
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = {name: scales[id(parameter)] for name, parameter in network.named_parameters()}
    order = []
    for layer, _, module in network.named_modules_of_layers():
        own = {named[f"{layer}.{name}"] for name, _ in module.named_parameters() if layer != "head"}
        if layer != "head":
            assert len(own) == 1, layer
            order.append(own.pop())
    assert order == sorted(order)
    assert len(set(order)) >= sum(architecture.depths)  # an embedding may go with the block behind it
    classifiers = {scale for name, scale in named.items() if name.startswith(("head.c", "head.d"))}
    assert classifiers == {1.0}
    assert named["head.norm.weight"] == max(order) < 1.0  # the norm goes with the last block, as in timm
    assert named["stem.conv1.weight"] == min(order)


@FAMILIES
def test_coarse_groups_are_stages(architecture: Architecture) -> None:
    from timm.models import group_parameters

    network = randomised(architecture)
    groups = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    by_stage = {
        stage: {g for n, g in groups.items() if n.startswith(f"stages.{stage}.")} for stage in range(4)
    }
    assert all(len(own) <= 1 for own in by_stage.values())
    order = [next(iter(own)) for own in by_stage.values() if own]
    assert order == sorted(set(order))


# Configuration


def test_the_older_name_of_the_configuration() -> None:
    network = create_model("efficientformerv2_s0")
    assert network.default_cfg is network.pretrained_cfg
    assert network.default_cfg["architecture"] == "efficientformerv2_s0"


def test_a_checkpointed_graph_may_be_gone_through_twice() -> None:
    network = randomised(tiny()).train()
    network.set_grad_checkpointing()
    loss = network(torch.randn(2, 3, 32, 32)).square().sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    batches = [b.clone() for name, b in network.named_buffers() if name.endswith("num_batches_tracked")]
    loss.backward()
    twice = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(torch.allclose(2 * a, b, atol=1e-5) for a, b in zip(once, twice, strict=True))
    again = [b for name, b in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_a_size_that_cannot_be_taken_changes_nothing() -> None:
    network = EfficientFormer(PRESETS["efficientformerv2_s0"]).eval()
    before = dict(network.named_parameters())
    with pytest.raises(InputError, match="would attend over"):
        network.set_input_size((131_104, 32))
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    assert network.architecture.input_size == (224, 224)


def test_its_own_size_leaves_every_parameter_to_its_optimiser() -> None:
    network = EfficientFormer(tiny(input_size=(64, 64)))
    before = dict(network.named_parameters())
    network.set_input_size(64)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
