"""Every preset at other input sizes: changed from any to any, built so, and the sizes that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientformer import (
    EfficientFormer,
    FeatureExtractor,
    InputError,
    create_model,
    load_checkpoint,
    save_model,
)
from efficientformer.model.blocks.bias import BiasTable
from tests.contract.models import (
    RECTANGLE,
    ROUNDING,
    SMALL,
    V2,
    Size,
    difference,
    each_dtype,
    each_name,
    each_size,
    images,
    label,
    network,
    same_state,
    share,
)

PORTRAIT: Size = (160, 32)
ALL = (SMALL, (64, 128), RECTANGLE, PORTRAIT)
each_start = pytest.mark.parametrize("start", ALL, ids=label)
each_end = pytest.mark.parametrize("end", ALL, ids=label)


def tables(model: torch.nn.Module) -> dict[str, BiasTable]:
    """The parts that have attention biases."""
    return {key: part for key, part in model.named_modules() if isinstance(part, BiasTable)}


@each_end
@each_start
@each_name
@torch.no_grad()
def test_from_any_size_to_any(name: str, start: Size, end: Size) -> None:
    source = network(name, size=start)
    model = share(source)
    model.set_input_size(end)
    assert model.architecture == dataclasses.replace(source.architecture, input_size=end)
    logits = model(images(end, 1))
    assert logits.shape == (1, 1000)
    assert torch.isfinite(logits).all()
    changed = {key for key, p in model.named_parameters() if p is not source.get_parameter(key)}
    assert changed <= {f"{key}.attention_biases" for key in tables(model)}
    for key, part in tables(model).items():
        before = tables(source)[key]
        assert part.attention_biases.requires_grad
        assert torch.equal(part.attention_biases[:, 0], before.attention_biases[:, 0])  # no offset
        farthest = [one.attention_biases[:, -1] for one in (part, before)]
        if 1 not in (*before.grid, *part.grid):
            assert torch.allclose(*farthest, atol=1e-6)
        if start == end:
            assert torch.equal(part.attention_biases, before.attention_biases)
    if start == end:
        assert torch.equal(logits, source(images(end, 1)))


@pytest.mark.parametrize("end", [(64, 128), PORTRAIT], ids=label)
@each_name
def test_the_tables_are_those_of_a_network_built_so(name: str, end: Size) -> None:
    model = share(network(name))
    model.set_input_size(end)
    built = EfficientFormer(model.architecture)
    mine, theirs = tables(model), tables(built)
    assert mine
    assert list(mine) == list(theirs)
    for key in mine:
        assert mine[key].grid == theirs[key].grid
        assert mine[key].attention_biases.shape == theirs[key].attention_biases.shape
        assert torch.equal(mine[key].attention_bias_idxs, theirs[key].attention_bias_idxs)
        assert int(mine[key].attention_bias_idxs.max()) < mine[key].attention_biases.shape[1]
    load_checkpoint(built, network(name).state_dict())  # of a square grid, as the tables say themselves
    assert same_state(built, model)


@pytest.mark.parametrize("start", [PORTRAIT, (64, 128)], ids=label)
@pytest.mark.parametrize("name", ["efficientformer_l1", *V2])
def test_a_files_rectangle_is_known_from_its_header(name: str, start: Size, tmp_path: Path) -> None:
    end = RECTANGLE
    path = tmp_path / "model.safetensors"
    save_model(path, network(name, size=start))
    model, loaded = share(network(name, size=start)), create_model(name, path, input_size=end)
    model.set_input_size(end)
    assert same_state(loaded, model)


@each_start
@each_name
def test_there_and_back_the_tables_have_their_shape(name: str, start: Size) -> None:
    source = network(name, size=start)
    model = share(source)
    for size in (*ALL, start):
        model.set_input_size(size)
    assert model.architecture == source.architecture
    shapes = [{key: t.shape for key, t in one.state_dict().items()} for one in (model, source)]
    assert shapes[0] == shapes[1]


@each_size
@each_dtype
@each_name
@torch.no_grad()
def test_the_number_type_and_the_training_mode_stay(name: str, dtype: torch.dtype, size: Size) -> None:
    model = share(network(name, dtype, RECTANGLE)).train()
    for part in tables(model).values():
        part.attention_biases = torch.nn.Parameter(part.attention_biases, requires_grad=False)
    model.set_input_size(size)
    assert all(module.training for module in model.modules())
    assert all(part.attention_biases.dtype == dtype for part in tables(model).values())
    assert not any(part.attention_biases.requires_grad for part in tables(model).values())
    assert model.eval()(images(size, 1, dtype)).dtype == dtype


@each_name
@torch.no_grad()
def test_one_side_makes_a_square(name: str) -> None:
    model = share(network(name, size=RECTANGLE))
    model.set_input_size(64)
    assert model.architecture.input_size == (64, 64)
    assert create_model(name, input_size=64).architecture == model.architecture


# What is counted


@each_size
@each_name
def test_the_architecture_counts_what_the_network_does(name: str, size: Size) -> None:
    model = network(name, size=size)
    assert model.architecture.params == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images(size, 1))
    assert model.architecture.macs == counter.get_total_flops() / 2


# What is refused


@pytest.mark.parametrize("form", ["network", "features", "intermediates"])
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (128, 64), (224, 224), (63, 64)], ids=label)
@each_name
def test_images_of_another_size_are_refused(name: str, form: str, size: Size) -> None:
    model = network(name)
    call = {
        "network": model,
        "features": FeatureExtractor(model),
        "intermediates": model.forward_intermediates,
    }[form]
    with pytest.raises(InputError, match=r"built for \(64, 64\).*set_input_size") as caught:
        call(images(size, 1))
    assert str(size) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100, "input size 100×100: .*pad to 128×128"),
        ((64, 65), "input size 64×65: .*pad to 64×96"),
        ((33, 64), "pad to 64×64"),
        ((31, 31), "pad to 32×32"),
        ((0, 64), "pad to 32×64"),
        (-32, "pad to 32×32"),
        ((64, 64.0), "whole pixels"),
        ((64, True), "whole pixels"),
        ("64", "whole pixels"),
    ],
    ids=str,
)
@each_name
def test_sizes_that_do_not_divide_are_refused(name: str, size: Any, message: str) -> None:
    model = share(network(name))
    with pytest.raises(InputError, match=message):
        model.set_input_size(size)
    assert model.architecture.input_size == SMALL  # as it was
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, input_size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(64,), (64, 64, 64), ()], ids=str)
@each_name
def test_sizes_that_are_no_pair_are_refused(name: str, size: Any) -> None:
    with pytest.raises(InputError, match="input size"):
        create_model(name, input_size=size)


# Other numbers of channels


@pytest.mark.parametrize("channels", [4])
@each_name
@torch.no_grad()
def test_other_channels(name: str, channels: int) -> None:
    model = create_model(name, in_chans=channels, input_size=RECTANGLE)
    assert model.architecture.in_channels == channels
    assert model.architecture.params == sum(parameter.numel() for parameter in model.parameters())
    assert model(images(RECTANGLE, 2, channels=channels)).shape == (2, 1000)
    with pytest.raises(RuntimeError, match="channels"):
        model(images(RECTANGLE, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


def saved(name: str, folder: Path) -> Path:
    """A file of the network for rectangles; one preset's at a time."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        for other in folder.iterdir():
            other.unlink()
        save_model(path, network(name, size=RECTANGLE))
    return path


@pytest.mark.parametrize("channels", [1, 6])
@each_name
@torch.no_grad()
def test_weights_for_three_channels_serve_others(name: str, channels: int, folder: Path) -> None:
    source = network(name, size=RECTANGLE)
    model = create_model(name, saved(name, folder), in_chans=channels, input_size=RECTANGLE)
    colour = images(RECTANGLE, 2)
    if channels == 1:
        given, wanted = model(colour[:, :1]), source(colour[:, :1].expand(-1, 3, -1, -1))
    else:
        given, wanted = model(colour.repeat(1, channels // 3, 1, 1)), source(colour)
    assert difference(given, wanted) <= 3 * ROUNDING[torch.float32]


@pytest.mark.parametrize("classes", [7, 0])
@each_name
def test_weights_of_1000_classes_serve_others(name: str, classes: int, folder: Path) -> None:
    source = network(name, size=RECTANGLE)
    model = create_model(name, saved(name, folder), num_classes=classes, input_size=RECTANGLE)
    mine, theirs = model.state_dict(), source.state_dict()
    body = [key for key in mine if not key.startswith(("head.classifier", "head.distillation"))]
    assert all(torch.equal(mine[key], theirs[key]) for key in body)
    assert len(mine) - len(body) == (4 if classes else 0)
    if classes:
        assert not model.head.classifier.bias.any()  # at its start
