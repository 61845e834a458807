from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from torch.utils.flop_counter import FlopCounterMode

from efficientformer import PRESETS, Architecture, Attention, Block, EfficientFormer, InputError, Layer, Stage
from efficientformer.presets import pooling
from tests.strategies import architectures, tiny

JSON = dict[str, Any]
L1 = PRESETS["efficientformer_l1"]


def parameter_count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def counted_macs(network: EfficientFormer) -> float:
    architecture = network.architecture
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, architecture.in_channels, *architecture.input_size))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [  # the parameter counts of the published weights, both heads; GMACs of convolutions, linears, attention
        ("efficientformer_l1", 12_289_928, 1.2913),
        ("efficientformer_l3", 31_406_000, 3.9066),
        ("efficientformer_l7", 82_229_328, 10.1193),
    ],
)
def test_presets_have_the_published_size(name: str, params: int, gmacs: float) -> None:
    assert PRESETS[name].params == params
    assert round(PRESETS[name].macs / 1e9, 4) == gmacs


@given(architectures())
def test_params_are_those_of_the_built_module(architecture: Architecture) -> None:
    assert architecture.params == parameter_count(EfficientFormer(architecture))


@given(architectures())
def test_each_layer_counts_the_params_of_its_own_module(architecture: Architecture) -> None:
    named = list(EfficientFormer(architecture).named_modules_of_layers())
    assert [(name, layer) for name, layer, _ in named] == architecture.named_layers()
    assert [layer for _, layer, _ in named] == list(architecture.layers())
    assert [layer.params for _, layer, _ in named] == [parameter_count(module) for *_, module in named]


@given(architectures())
def test_macs_are_what_torch_counts_while_the_network_runs(architecture: Architecture) -> None:
    assert architecture.macs == counted_macs(EfficientFormer(architecture))


@given(architectures())
def test_json_round_trip_keeps_equality_and_hash(architecture: Architecture) -> None:
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert {architecture: "found"}[again] == "found"


@given(architectures())
def test_compact_computes_the_same_layers_without_identities(architecture: Architecture) -> None:
    compact = architecture.compact()
    assert compact.layers() == architecture.layers()
    assert compact.depths == architecture.depths
    assert all(block.kind != "identity" for stage in compact.stages for block in stage.blocks)
    assert compact.compact() == compact


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 10},
        {"in_channels": 1},
        {"input_size": (224, 256)},
        {"activation": "relu"},
        {"distilled": False},
        {"attention": Attention(heads=4)},
        {"stages": (*L1.stages[:3], Stage(64, L1.stages[3].blocks))},
        {"stages": (*L1.stages[:3], Stage(448, (Block("pool"),)))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_value_is_another_architecture(change: JSON) -> None:
    other = dataclasses.replace(L1, **change)
    assert other != L1
    assert other.to_json() != L1.to_json()
    assert other.layers() != L1.layers()


def test_an_architecture_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        L1.num_classes = 5


def test_layers_come_in_order_of_execution() -> None:
    assert [name for name, _ in tiny().named_layers()] == [
        "stem",
        "stages.0.blocks.0",
        "stages.1.embed",
        "stages.1.blocks.1",
        "stages.2.embed",
        "stages.2.blocks.0",
        "stages.2.blocks.1",
        "stages.3.embed",
        "stages.3.blocks.0",
        "stages.3.blocks.1",
        "head",
    ]


def test_grids_follow_the_strides() -> None:
    architecture = dataclasses.replace(tiny(), input_size=(64, 160))
    assert [architecture.grid(stage) for stage in range(4)] == [(16, 40), (8, 20), (4, 10), (2, 5)]


def test_uniform_puts_attention_last() -> None:
    stages = pooling((8, 8, 8, 8), (1, 1, 1, 4), 3).stages
    assert [block.kind for block in stages[3].blocks] == ["pool", "attention", "attention", "attention"]


def test_edits_change_one_place() -> None:
    start = tiny()
    edited = start.with_block(0, 0, "identity").with_width(3, 20)
    assert edited.depths == (0, 1, 2, 2)
    assert edited.widths == (8, 8, 12, 20)
    assert edited.stages[1:3] == start.stages[1:3]
    assert start == tiny()


def test_block_layer_is_the_row_of_that_position_or_of_another_kind_there() -> None:
    named = dict(tiny().named_layers())
    assert tiny().block_layer(2, 0) == named["stages.2.blocks.0"]
    other = tiny().block_layer(2, 0, "pool")
    assert other == dict(tiny().with_block(2, 0, "pool").named_layers())["stages.2.blocks.0"]


@given(architectures())
def test_equal_layers_have_equal_keys(architecture: Architecture) -> None:
    layers = architecture.layers()
    again = Architecture.from_json(architecture.to_json()).layers()
    assert [layer.key() for layer in layers] == [layer.key() for layer in again]
    assert len({layer.key() for layer in layers}) == len(set(layers))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (tiny(), "8:P2 8:·P2 12:A2P2 16:P2A2 @32×32"),
        (dataclasses.replace(tiny(), input_size=(64, 32)), "8:P2 8:·P2 12:A2P2 16:P2A2 @64×32"),
        (tiny().with_expansion(2, 1, 4).with_expansion(0, 0, 3), "8:P3 8:·P2 12:A2P 16:P2A2 @32×32"),
        (tiny().block_layer(2, 0), "attention 12 @2×2"),
        (tiny().layers()[0], "stem 3→8 @32×32"),
    ],
)
def test_written_form(architecture: Architecture | Layer, expected: str) -> None:
    assert str(architecture) == expected


# What is refused


def replaced(**values: Any) -> Callable[[], Architecture]:
    return lambda: dataclasses.replace(tiny(), **values)


def with_first_stage(stage: Stage) -> Callable[[], Architecture]:
    return replaced(stages=(stage, *tiny().stages[1:]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (replaced(stages=tiny().stages[:3]), "four stages are needed, 3 given"),
        (replaced(stages=()), "four stages are needed, 0 given"),
        (replaced(input_size=(100, 130)), "input size 100×130.*multiple of 32; pad to 128×160"),
        (replaced(input_size=(224, 225)), "pad to 224×256"),
        (replaced(input_size=(0, 32)), "pad to 32×32"),
        (replaced(input_size=(-64, 32)), "pad to 32×32"),
        (replaced(input_size=(224.0, 224.0)), "in whole pixels"),
        (replaced(input_size=(32, 32, 32)), "input size 32×32×32"),
        (replaced(input_size=(32,)), "input size 32"),
        (replaced(activation="tanh"), "unknown activation 'tanh'; known: gelu, relu"),
        (replaced(num_classes=-1), "num_classes must be a whole number from 0"),
        (replaced(in_channels=0), "must be a whole number from 1"),
        (with_first_stage(Stage(1, ())), "stage 0 cannot be 1 wide"),
        (with_first_stage(Stage(9, ())), r"stage 0 cannot be 9 wide \(the first must be even\)"),
        (with_first_stage(Stage(8, (Block("conv"),))), "unknown block 'conv' in stage 0; known: .*attention"),
        (with_first_stage(Stage(8, (Block("stem"),))), "unknown block 'stem' in stage 0"),
        (with_first_stage(Stage(8, (Block("pool", 0),))), "stage 0 has a block of expansion 0"),
        (lambda: L1.with_width(1, 0), "stage 1 cannot be 0 wide"),
    ],
)
def test_what_is_no_network_is_refused(make: Callable[[], Architecture], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": Attention(heads=0)},
        {"attention": Attention(key_dim=0)},
        {"attention": Attention(value_dim=-1)},
        {"num_classes": 10.5},
        {"distilled": 2},  # three classifiers in the head's layer
        {"stages": (*L1.stages[:3], Stage(448.5, ()))},
    ],
)
def test_values_that_no_module_can_be_built_from_are_refused(change: JSON) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(L1, **change)


def without(key: str) -> JSON:
    return {name: value for name, value in tiny().to_json().items() if name != key}


STAGES = tiny().to_json()["stages"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "efficientformer.architecture/1"),
        ([], "efficientformer.architecture/1"),
        (None, "efficientformer.architecture/1"),
        (without("format"), "efficientformer.architecture/1"),
        (tiny().to_json() | {"format": "efficientformer.architecture/2"}, "efficientformer.architecture/1"),
        (without("stages"), "'stages'"),
        (without("attention"), "'attention'"),
        (without("input_size"), "'input_size'"),
        (tiny().to_json() | {"colour": "red"}, "'colour'"),
        (tiny().to_json() | {"attention": {"heads": 2, "tails": 1}}, "'tails'"),
        (tiny().to_json() | {"stages": 4}, "wrong type"),
        (tiny().to_json() | {"input_size": None}, "wrong type"),
        (tiny().to_json() | {"num_classes": "ten"}, "num_classes must be a whole number from 0, not 'ten'"),
        (tiny().to_json() | {"stages": [{"width": 8}, *STAGES[1:]]}, "'blocks'"),
        (tiny().to_json() | {"stages": [{"width": 8, "blocks": [{"size": 3}]}, *STAGES[1:]]}, "'size'"),
        (tiny().to_json() | {"stages": [{"width": 8, "blocks": ["pool"]}, *STAGES[1:]]}, "wrong type"),
        (tiny().to_json() | {"input_size": [100, 32]}, "pad to 128×32"),
        (tiny().to_json() | {"activation": "tanh"}, "unknown activation 'tanh'"),
    ],
)
def test_a_document_that_does_not_fit_is_refused(document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Architecture.from_json(document)
    assert "\n" not in str(caught.value)


def test_an_input_size_of_words_is_refused() -> None:
    with pytest.raises(InputError):
        Architecture.from_json(tiny().to_json() | {"input_size": ["a", "b"]})


def test_reading_a_document_leaves_it_as_it_was() -> None:
    document = tiny().to_json()
    before = json.dumps(document)
    Architecture.from_json(document)
    assert json.dumps(document) == before
