"""Every preset's feature maps: the extractor's and the intermediates, against hooks on the stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from efficientformer import EfficientFormer, FeatureExtractor, InputError, create_model
from tests.contract.models import (
    RECTANGLE,
    ROUNDING,
    Size,
    difference,
    each_dtype,
    each_name,
    each_size,
    gradients,
    images,
    network,
    share,
)

Indices = int | Sequence[int] | None

CHOICES: list[tuple[Indices, tuple[int, ...]]] = [
    (None, (0, 1, 2, 3)),
    (1, (3,)),
    (2, (2, 3)),
    (4, (0, 1, 2, 3)),
    ((0,), (0,)),
    ((1, 2), (1, 2)),
    ((-1,), (3,)),
    ((0, -2), (0, 2)),
    ((3, 1), (1, 3)),
    ([1, 1], (1,)),
]
FEW = [CHOICES[index] for index in (0, 2, 4, 7)]
each_choice = pytest.mark.parametrize(("indices", "chosen"), CHOICES, ids=lambda value: str(value))
each_wrong_choice = pytest.mark.parametrize("indices", [(4,), (-5,), (0, 7), 5, 0, -1, ()], ids=str)


@lru_cache(maxsize=10)
@torch.no_grad()
def stage_outputs(name: str, dtype: torch.dtype, size: Size) -> list[Tensor]:
    """What the stages give, seen by hooks, as maps."""
    model, seen = network(name, dtype, size), []
    hooks = [stage.register_forward_hook(lambda _, __, result: seen.append(result)) for stage in model.stages]
    model(images(size, 2, dtype))
    for hook in hooks:
        hook.remove()
    height, width = size[0] // 32, size[1] // 32
    if seen[-1].ndim == 3:
        seen[-1] = seen[-1].reshape(2, height, width, -1).permute(0, 3, 1, 2)
    return seen


@lru_cache(maxsize=10)
@torch.no_grad()
def normed(name: str, dtype: torch.dtype, size: Size) -> Tensor:
    """The last stage's map behind the head's norm."""
    last, norm = stage_outputs(name, dtype, size)[-1], network(name, dtype, size).head.norm
    channels_last = isinstance(norm, torch.nn.LayerNorm)
    return norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if channels_last else norm(last)


@each_choice
@each_dtype
@each_name
@torch.no_grad()
def test_an_extractor_gives_the_maps_it_announces(
    name: str, dtype: torch.dtype, indices: Indices, chosen: tuple[int, ...]
) -> None:
    size = RECTANGLE
    extractor = FeatureExtractor(network(name, dtype, size), indices)
    maps, info = extractor(images(size, 2, dtype)), extractor.feature_info
    assert extractor.out_indices == chosen
    assert info.module_name() == [f"stages.{index}" for index in chosen]
    assert info.reduction() == [4 * 2**index for index in chosen]
    announced = zip(info.channels(), info.reduction(), strict=True)
    assert [tuple(one.shape) for one in maps] == [(2, c, size[0] // r, size[1] // r) for c, r in announced]
    stages = stage_outputs(name, dtype, size)
    assert all(torch.equal(one, stages[index]) for one, index in zip(maps, chosen, strict=True))


@pytest.mark.parametrize(("indices", "stages"), [(None, 4), ((0,), 1), ((2, 1), 3), (1, 4)], ids=str)
@each_name
def test_an_extractor_has_no_weights_it_does_not_need(name: str, indices: Indices, stages: int) -> None:
    extractor = FeatureExtractor(network(name), indices)
    needed = {"stem", *(f"stages.{index}" for index in range(stages))}
    owners = {key.split(".")[0] if key.startswith("stem") else key[:8] for key in extractor.state_dict()}
    assert owners == needed


@pytest.mark.parametrize("indices", [None, (0, 2)], ids=str)
@each_name
@torch.no_grad()
def test_an_extractor_is_made_by_name(name: str, indices: Indices) -> None:
    extractor = create_model(name, features_only=True, out_indices=indices, input_size=RECTANGLE, in_chans=4)
    assert isinstance(extractor, FeatureExtractor)
    assert not extractor.training
    assert extractor.pretrained_cfg["architecture"] == name
    maps = extractor(images(RECTANGLE, 1, channels=4))
    assert [one.shape[1] for one in maps] == extractor.feature_info.channels()


@each_name
def test_an_extractor_learns(name: str) -> None:
    extractor = share(FeatureExtractor(network(name, size=RECTANGLE))).train()
    given = gradients(sum(one.square().mean() for one in extractor(images(RECTANGLE))), extractor)
    assert [key for key, gradient in given.items() if gradient is None or not gradient.isfinite().all()] == []


@each_size
@each_name
@torch.no_grad()
def test_an_extractor_takes_another_size(name: str, size: Size) -> None:
    extractor = FeatureExtractor(share(network(name, size=RECTANGLE)), (1, 2))
    extractor.set_input_size(size)
    sides = [tuple(one.shape[-2:]) for one in extractor(images(size, 1))]
    assert sides == [(size[0] // stride, size[1] // stride) for stride in (8, 16)]


def intermediates(model: EfficientFormer, indices: Indices, mode: str, norm: bool) -> list[Tensor]:
    """By each of the three ways of asking."""
    pictures = images(RECTANGLE, 2)
    if mode == "with_features":
        features, maps = model.forward_intermediates(pictures, indices, norm=norm)
        assert torch.equal(features, model.forward_features(pictures))
        return maps
    return model.forward_intermediates(
        pictures, indices, norm=norm, intermediates_only=True, stop_early=mode == "stop_early"
    )


@pytest.mark.parametrize(("indices", "chosen"), FEW, ids=lambda value: str(value))
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("mode", ["with_features", "only", "stop_early"])
@each_name
@torch.no_grad()
def test_intermediates(name: str, indices: Indices, chosen: tuple[int, ...], mode: str, norm: bool) -> None:
    model, ran = network(name, size=RECTANGLE), set()
    hooks = [
        stage.register_forward_hook(lambda _, __, ___, index=index: ran.add(index))
        for index, stage in enumerate(model.stages)
    ]
    maps = intermediates(model, indices, mode, norm)
    for hook in hooks:
        hook.remove()
    wanted = list(stage_outputs(name, torch.float32, RECTANGLE))
    if norm:
        wanted[3] = normed(name, torch.float32, RECTANGLE)
    assert len(maps) == len(chosen)
    for one, index in zip(maps, chosen, strict=True):
        assert difference(one, wanted[index]) <= ROUNDING[torch.float32]
    assert ran == set(range(max(chosen) + 1 if mode == "stop_early" else 4))


@each_dtype
@each_name
@torch.no_grad()
def test_intermediates_are_of_the_networks_number_type(name: str, dtype: torch.dtype) -> None:
    features, maps = network(name, dtype).forward_intermediates(images(dtype=dtype))
    assert {tensor.dtype for tensor in (features, *maps)} == {dtype}


@each_wrong_choice
@each_name
def test_stages_that_are_not_there_are_refused(name: str, indices: Indices) -> None:
    model = network(name, size=RECTANGLE)
    with pytest.raises(InputError, match="there are 4, counted from 0"):
        model.forward_intermediates(images(RECTANGLE), indices)
    with pytest.raises(InputError, match="there are 4, counted from 0"):
        FeatureExtractor(model, indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"output_fmt": "NLC"}, "output_fmt 'NLC'"), ({"stop_early": True}, "set intermediates_only as well")],
    ids=["format", "early"],
)
@each_name
def test_intermediates_that_cannot_be_are_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        network(name, size=RECTANGLE).forward_intermediates(images(RECTANGLE), **options)


@each_name
def test_indices_without_features_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="features_only=True"):
        create_model(name, out_indices=(0,))
