"""Every preset's weights in the published layouts, there and back."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from efficientformer import InputError, create_model, load_checkpoint, to_layout
from efficientformer.model.layouts import LAYOUTS, Layout, recognise
from tests.contract.models import (
    NAMES,
    RECTANGLE,
    SMALL,
    V1,
    V2,
    EfficientFormer,
    Size,
    blank,
    each_dtype,
    network,
    same_state,
)

PLACES = [(name, layout) for name in NAMES for layout in LAYOUTS if name in V1 or layout != "transformers"]
each_place = pytest.mark.parametrize(("name", "layout"), PLACES)


@lru_cache(maxsize=1)
def emptied(name: str, dtype: torch.dtype, size: Size) -> EfficientFormer:
    """A network to load into; what it holds is overwritten."""
    return blank(network(name, dtype, size))


def wipe(model: EfficientFormer) -> EfficientFormer:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.zero_()
    return model


def same_entries(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


@each_dtype
@each_place
def test_there_and_back(name: str, layout: Layout, dtype: torch.dtype) -> None:
    size = RECTANGLE
    source, target = network(name, dtype, size), wipe(emptied(name, dtype, size))
    theirs = to_layout(source, layout)
    assert recognise(key.removeprefix("efficientformer.") for key in theirs) == layout
    assert {tensor.dtype for tensor in theirs.values() if tensor.is_floating_point()} == {dtype}
    assert not same_state(target, source)
    load_checkpoint(target, theirs)
    assert same_state(target, source)
    assert same_entries(to_layout(target, layout), theirs)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
@each_place
def test_wrapped_names_are_unwrapped(name: str, layout: Layout, wrapper: str) -> None:
    source, target = network(name), wipe(emptied(name, torch.float32, SMALL))
    load_checkpoint(target, {wrapper + key: tensor for key, tensor in to_layout(source, layout).items()})
    assert same_state(target, source)


@each_place
def test_from_a_file_as_each_publishes_it(name: str, layout: Layout, tmp_path: Path) -> None:
    source, target = network(name), wipe(emptied(name, torch.float32, SMALL))
    theirs = to_layout(source, layout)
    path = tmp_path / {"official": "l.pth", "timm": "model.safetensors", "transformers": "model.bin"}[layout]
    if layout == "timm":
        save_file({key: tensor.contiguous() for key, tensor in theirs.items()}, path)
    else:
        torch.save({"model": theirs} if layout == "official" else theirs, path)
    load_checkpoint(target, path)
    assert same_state(target, source)


@each_place
def test_one_entry_short_or_over(name: str, layout: Layout) -> None:
    source = network(name)
    target, theirs = wipe(emptied(name, torch.float32, SMALL)), to_layout(source, layout)
    zeros = blank(target)
    lost = next(key for key in theirs if key.endswith("running_mean"))
    short = {key: tensor for key, tensor in theirs.items() if key != lost}
    with pytest.raises(InputError, match="1 tensors are missing"):
        load_checkpoint(target, short)
    with pytest.raises(InputError, match="1 tensors are unknown"):
        load_checkpoint(target, theirs | {"stages.0.surplus": torch.zeros(1)})
    assert same_state(target, zeros)  # as it was


@each_place
def test_weights_of_another_preset_are_refused(name: str, layout: Layout) -> None:
    other = NAMES[(NAMES.index(name) + 1) % len(NAMES)]
    target = wipe(emptied(name, torch.float32, SMALL))
    zeros = blank(target)
    with torch.device("meta"):
        shapes = create_model(other, input_size=SMALL)
    with pytest.raises(InputError, match="checkpoint:"):
        load_checkpoint(target, to_layout(shapes, layout if other in V1 else "timm"))
    assert same_state(target, zeros)
    with pytest.raises(InputError, match="unknown layout 'caffe'"):
        to_layout(target, "caffe")  # ty: ignore
    assert layout in LAYOUTS


@pytest.mark.parametrize("name", V2)
def test_transformers_has_no_second_version(name: str) -> None:
    with pytest.raises(InputError, match="the transformers layout has no place for the network"):
        to_layout(network(name), "transformers")


@each_place
def test_entries_are_told_apart(name: str, layout: Layout) -> None:
    source = network(name)
    theirs = to_layout(source, layout)
    ours = source.state_dict()
    extra = {key for key in theirs if key.endswith("attention_bias_idxs")}
    assert len(theirs) - len(extra) == len(ours)
    assert sorted(t.numel() for k, t in theirs.items() if k not in extra) == sorted(
        t.numel() for t in ours.values()
    )
    pointers = {tensor.data_ptr() for tensor in theirs.values()}
    assert pointers >= {tensor.data_ptr() for tensor in ours.values()}  # not copied
    assert not any(tensor.requires_grad for tensor in theirs.values())
