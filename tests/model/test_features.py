from __future__ import annotations

from collections.abc import Sequence

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from efficientformer import (
    PRESETS,
    Architecture,
    FeatureExtractor,
    InputError,
    create_model,
    load_checkpoint,
    save_model,
)
from efficientformer.model.network import take_indices
from tests.strategies import architectures, randomise, randomised, relative_difference, tiny


@given(architectures(), st.sets(st.integers(0, 3), min_size=1))
def test_an_extractor_gives_what_the_network_gives_on_the_way(
    architecture: Architecture, wanted: set[int]
) -> None:
    network = randomised(architecture)
    x = torch.randn(2, architecture.in_channels, *architecture.input_size)
    with torch.no_grad():
        _, maps = network.forward_intermediates(x)
        features = FeatureExtractor(network, sorted(wanted))(x)
    assert [tuple(one.shape[1:]) for one in features] == [
        (architecture.widths[index], *architecture.grid(index)) for index in sorted(wanted)
    ]
    assert all(torch.equal(given, maps[i]) for given, i in zip(features, sorted(wanted), strict=True))


@pytest.mark.parametrize("preset", ["efficientformer_l1", "efficientformerv2_s0"])
def test_the_maps_are_timms_and_so_is_what_is_known_of_them(preset: str) -> None:
    theirs = timm.create_model(preset)
    randomise(theirs)
    theirs.train(False)
    ours = create_model(preset)
    load_checkpoint(ours, theirs.state_dict())
    extractor, info = FeatureExtractor(ours), timm.create_model(preset, features_only=True).feature_info
    assert extractor.feature_info.channels() == info.channels()
    assert extractor.feature_info.reduction() == info.reduction()
    assert extractor.feature_info.module_name() == info.module_name()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = theirs.forward_intermediates(x, intermediates_only=True)
        given = extractor(x)
    assert all(relative_difference(one, other) <= 1e-5 for one, other in zip(given, wanted, strict=True))


@pytest.mark.parametrize(
    ("out_indices", "channels"),
    [
        (None, [8, 8, 12, 16]),
        (1, [16]),
        (2, [12, 16]),
        (4, [8, 8, 12, 16]),
        ((0,), [8]),
        ([2, 0], [8, 12]),
        ((-1, 1), [8, 16]),
        ((0, 0, -4), [8]),
    ],
)
def test_the_stages_are_chosen(out_indices: int | Sequence[int] | None, channels: list[int]) -> None:
    extractor = FeatureExtractor(randomised(tiny()), out_indices)
    info = extractor.feature_info
    assert info.channels() == channels
    maps = extractor(torch.randn(1, 3, 32, 32))
    assert [one.shape[1] for one in maps] == channels
    assert [32 // one.shape[2] for one in maps] == info.reduction()
    assert info.module_name() == [f"stages.{index}" for index in extractor.out_indices]


@pytest.mark.parametrize("out_indices", [(), 0, 5, -1, (4,), (-5,), (0, 7)])
def test_stages_that_are_not_there_are_refused(out_indices: int | Sequence[int]) -> None:
    with pytest.raises(InputError, match="there are 4, counted from 0"):
        FeatureExtractor(randomised(tiny()), out_indices)


@given(st.one_of(st.integers(1, 4), st.lists(st.integers(-4, 3), min_size=1)))
def test_indices_rise_and_are_within(indices: int | list[int]) -> None:
    taken = take_indices(4, indices)
    assert taken == sorted(set(taken))
    wanted = range(4 - indices, 4) if isinstance(indices, int) else {index % 4 for index in indices}
    assert set(taken) == set(wanted)


def test_stages_behind_the_last_and_the_head_are_not_there() -> None:
    extractor = FeatureExtractor(randomised(tiny()), (0, 1))
    assert len(extractor.stages) == 2
    assert not [name for name in extractor.state_dict() if name.startswith(("head", "stages.2", "stages.3"))]


def test_an_extractor_takes_the_network_over() -> None:
    network = randomised(tiny())
    assert FeatureExtractor(network).stem is network.stem


@pytest.mark.parametrize("out_indices", [None, (0, 1), (2,)])
def test_an_extractor_takes_another_size(out_indices: tuple[int, ...] | None) -> None:
    extractor, network = FeatureExtractor(randomised(tiny()), out_indices), randomised(tiny())
    extractor.set_input_size((64, 96))
    network.set_input_size((64, 96))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        _, maps = network.forward_intermediates(x)
        given = extractor(x)
    assert all(torch.equal(one, maps[index]) for one, index in zip(given, extractor.out_indices, strict=True))
    with pytest.raises(InputError, match=r"built for \(64, 96\)"):
        extractor(torch.zeros(1, 3, 32, 32))


def test_create_model_makes_extractors(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny(num_classes=7))
    source, path = randomised(tiny(num_classes=5)), tmp_path_factory.mktemp("w") / "five.safetensors"
    save_model(path, source)
    options = {"features_only": True, "input_size": 32}
    extractor = create_model("tiny", path, out_indices=(1, 3), **options)
    assert isinstance(extractor, FeatureExtractor)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        maps = source.forward_intermediates(x, (1, 3), intermediates_only=True)
        given: list[Tensor] = extractor(x)
    assert all(torch.equal(one, wanted) for one, wanted in zip(given, maps, strict=True))
    assert extractor.pretrained_cfg["architecture"] == "tiny"


@pytest.mark.parametrize("training", [True, False])
def test_an_extractor_is_in_the_mode_its_network_was_in(training: bool) -> None:
    assert not create_model("efficientformerv2_s0", features_only=True).training
    extractor = FeatureExtractor(randomised(tiny()).train(training))
    assert {module.training for module in extractor.modules()} == {training}


def test_out_indices_need_features_only() -> None:
    with pytest.raises(InputError, match="set that as well"):
        create_model("efficientformer_l1", out_indices=(1,))  # ty: ignore[no-matching-overload]


def test_gradients_flow_with_checkpointing() -> None:
    plain, saving = (FeatureExtractor(randomised(tiny()), (3,)).train() for _ in range(2))
    saving.set_grad_checkpointing()
    x = torch.randn(2, 3, 32, 32)
    for extractor in (plain, saving):
        extractor(x)[0].square().sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name
