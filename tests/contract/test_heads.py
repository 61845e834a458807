"""Every preset's head: features and logits apart, other classifiers, none, no pooling, one instead of two."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from efficientformer import InputError, create_model, fold, load_checkpoint
from tests.contract.models import (
    RECTANGLE,
    ROUNDING,
    SMALL,
    Size,
    difference,
    each_dtype,
    each_name,
    each_size,
    gradients,
    images,
    network,
    output,
    share,
)

each_pool = pytest.mark.parametrize("pool", ["avg", ""], ids=["avg", "unpooled"])
each_number = pytest.mark.parametrize("classes", [0, 7, 1000])


@lru_cache(maxsize=4)
@torch.no_grad()
def features(name: str, dtype: torch.dtype, size: Size = SMALL) -> Tensor:
    """`forward_features`, to be left as it is."""
    return network(name, dtype, size).forward_features(images(size, 2, dtype))


def logits_shape(name: str, pool: str, classes: int, size: Size = SMALL) -> tuple[int, ...]:
    """Of a batch of two."""
    model = network(name)
    channels, (height, width) = classes or model.num_features, (size[0] // 32, size[1] // 32)
    if pool:
        return (2, channels)
    return (2, channels, height, width) if model.head.layout == "map" else (2, height * width, channels)


@each_size
@each_dtype
@each_name
@torch.no_grad()
def test_the_whole_is_its_features_and_its_head(name: str, dtype: torch.dtype, size: Size) -> None:
    model, seen = network(name, dtype, size), features(name, dtype, size)
    assert seen.shape == logits_shape(name, "", 0, size)
    logits = model.forward_head(seen)
    assert torch.equal(logits, model(images(size, 2, dtype)))


@each_size
@each_dtype
@each_name
@torch.no_grad()
def test_before_the_logits_are_the_mean_features(name: str, dtype: torch.dtype, size: Size) -> None:
    model, seen = network(name, dtype, size), features(name, dtype, size)
    pooled = model.forward_head(seen, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert pooled.dtype == dtype
    tokens = seen.double().flatten(2).transpose(1, 2) if seen.ndim == 4 else seen.double()
    mean = tokens.sum(1) / tokens.shape[1]
    assert difference(pooled, mean) <= {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    heads = [linear(pooled) for linear in model.get_classifier()]
    assert torch.equal(sum(heads) / 2, model.forward_head(seen))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@each_number
@each_pool
@each_dtype
@each_name
def test_another_classifier(name: str, dtype: torch.dtype, pool: str, classes: int, training: bool) -> None:
    model = share(network(name, dtype)).train(training)
    model.reset_classifier(classes, pool)
    assert (model.num_classes, model.architecture.global_pool) == (classes, pool)
    heads = [module for module in model.head.children() if isinstance(module, nn.Linear)]
    assert len(heads) == (2 if classes else 0)
    for head in heads:
        assert head.weight.shape == (classes, model.num_features)
        assert (head.weight.dtype, head.weight.device) == (dtype, torch.device("cpu"))
        assert head.weight.requires_grad
        assert head.training is training
        assert 0.01 < head.weight.float().std() < 0.03
        assert not head.bias.any()
    result = model.forward_head(features(name, dtype))
    assert result.shape == logits_shape(name, pool, classes)
    assert result.dtype == dtype
    assert torch.isfinite(result).all()
    assert sum(parameter.numel() for parameter in model.parameters()) == model.architecture.params


@pytest.mark.parametrize("before", ["avg", ""], ids=["avg", "unpooled"])
@each_number
@each_name
def test_another_classifier_leaves_the_pooling(name: str, classes: int, before: str) -> None:
    model = share(network(name))
    model.reset_classifier(3, before)
    model.reset_classifier(classes)
    assert model.architecture.global_pool == before
    assert model.forward_head(features(name, torch.float32)).shape == logits_shape(name, before, classes)


@pytest.mark.parametrize("classes", [0, 7])
@each_pool
@each_name
@torch.no_grad()
def test_built_so_and_changed_so_are_one(name: str, pool: str, classes: int) -> None:
    changed = share(network(name, size=RECTANGLE))
    changed.reset_classifier(classes, pool)
    with torch.device("meta"):
        built = create_model(name, num_classes=classes, global_pool=pool, input_size=RECTANGLE)
    assert built.architecture == changed.architecture
    shapes = [{key: t.shape for key, t in model.state_dict().items()} for model in (built, changed)]
    assert shapes[0] == shapes[1]
    result = changed(images(RECTANGLE, 2))
    assert result.shape == logits_shape(name, pool, classes, RECTANGLE)


@pytest.mark.parametrize("classes", [0, 7])
@each_pool
@each_name
@torch.no_grad()
def test_folding_whatever_the_head_is(name: str, pool: str, classes: int) -> None:
    dtype = torch.float32
    model = share(network(name, dtype, RECTANGLE))
    model.reset_classifier(classes, pool)
    pictures = images(RECTANGLE, 2, dtype)
    assert difference(fold(model)(pictures), model(pictures)) <= ROUNDING[dtype]


@each_name
@torch.no_grad()
def test_the_mean_over_positions_may_come_last(name: str) -> None:
    model = share(network(name))
    pooled = model.forward_head(features(name, torch.float32))
    model.head.pooled = False
    everywhere = model.forward_head(features(name, torch.float32))
    places = (2, 3) if everywhere.ndim == 4 else 1
    assert difference(everywhere.mean(places), pooled) <= ROUNDING[torch.float32]


@pytest.mark.parametrize("classes", [-1, 1.5, True, "7"], ids=str)
@each_name
def test_no_such_number_of_classes(name: str, classes: int) -> None:
    model = share(network(name))
    with pytest.raises(InputError, match="num_classes must be a whole number from 0"):
        model.reset_classifier(classes)
    with pytest.raises(InputError, match="num_classes must be a whole number from 0"):
        create_model(name, num_classes=classes)
    assert model.forward_head(features(name, torch.float32)).shape == (2, 1000)  # as it was


@pytest.mark.parametrize("pool", ["max", "AVG", "none"])
@each_name
def test_no_such_pooling(name: str, pool: str) -> None:
    model = share(network(name))
    with pytest.raises(InputError, match="unknown global_pool"):
        model.reset_classifier(5, pool)
    with pytest.raises(InputError, match="unknown global_pool"):
        create_model(name, global_pool=pool)
    assert model.forward_head(features(name, torch.float32)).shape == (2, 1000)


# The second classifier


@each_dtype
@each_name
def test_the_pair_of_training_is_averaged_in_evaluation(name: str, dtype: torch.dtype) -> None:
    model = share(network(name, dtype))
    seen, pictures = features(name, dtype), images(batch=2, dtype=dtype)
    model.set_distilled_training()
    with torch.no_grad():
        pair = model.train().forward_head(seen)
        assert isinstance(pair, tuple)
        assert [one.shape for one in pair] == [(2, 1000)] * 2
        assert difference(*pair) > 0.1
        assert torch.equal((pair[0] + pair[1]) / 2, model.eval()(pictures))
        model.set_distilled_training(False)
        assert torch.equal((pair[0] + pair[1]) / 2, model.train().forward_head(seen))


@each_name
@torch.no_grad()
def test_one_classifier_takes_the_mean_of_two(name: str) -> None:
    model = create_model(name, distilled=False, input_size=SMALL)
    load_checkpoint(model, network(name).state_dict())
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model.architecture.params == sum(parameter.numel() for parameter in model.parameters())
    assert difference(model(images()), output(name)) <= ROUNDING[torch.float32]
    assert difference(fold(model)(images()), output(name)) <= ROUNDING[torch.float32]


@each_name
def test_one_classifier_gives_no_pair(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, distilled=False, input_size=SMALL)
    with pytest.raises(InputError, match="distilled training needs two classifiers"):
        model.set_distilled_training()
    model.set_distilled_training(False)
    seen = torch.empty(logits_shape(name, "", 0), device="meta")
    assert isinstance(model.train().forward_head(seen), Tensor)


@each_name
def test_the_pair_learns_apart(name: str) -> None:
    model = share(network(name, size=RECTANGLE)).train()
    model.set_distilled_training()
    labels, _ = model(images(RECTANGLE))
    given = gradients(labels.square().mean(), model)
    unused = {key for key, gradient in given.items() if gradient is None}
    assert unused == {"head.distillation.weight", "head.distillation.bias"}
