"""The names of each layout against lists made without ours: timm's, transformers', the authors' tables."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from efficientformer import (
    PRESETS,
    Architecture,
    Attention,
    Block,
    EfficientFormer,
    InputError,
    Stage,
    create_model,
    load_checkpoint,
    to_layout,
)
from efficientformer.model import layouts
from efficientformer.model.layouts import LAYOUTS, family, names, recognise
from efficientformer.presets import Four, pooling, unified
from tests.strategies import randomise, randomised, relative_difference, tiny

Tensors = dict[str, Tensor]
V1 = ("efficientformer_l1", "efficientformer_l3", "efficientformer_l7")
V2 = ("efficientformerv2_s0", "efficientformerv2_s1", "efficientformerv2_s2", "efficientformerv2_l")
PLACES = [("v1", "official"), ("v1", "timm"), ("v1", "transformers"), ("v2", "official"), ("v2", "timm")]


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def on_meta(architecture: Architecture) -> EfficientFormer:
    with torch.device("meta"):
        return EfficientFormer(architecture)


def same(tensors: Tensors, others: Tensors) -> bool:
    return set(tensors) == set(others) and all(torch.equal(t, others[name]) for name, t in tensors.items())


# timm


@pytest.mark.parametrize("distilled", [True, False])
@pytest.mark.parametrize("name", [*V1, *V2])
def test_timms_entries_are_timms(name: str, distilled: bool) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = on_meta(dataclasses.replace(PRESETS[name], distilled=distilled))
    assert shapes(to_layout(ours, "timm")) == shapes(theirs.state_dict())


@pytest.mark.parametrize("layout", ["official", "timm"])
def test_a_single_classifier_is_written_twice_and_comes_back(layout: layouts.Layout) -> None:
    architecture = dataclasses.replace(
        pooling((4, 6, 6, 8), (1, 1, 1, 2)), distilled=False, input_size=(32, 32)
    )
    network = randomised(architecture)
    tensors, again = to_layout(network, layout), EfficientFormer(architecture)
    second = {"official": "dist_head", "timm": "head_dist"}[layout]
    assert torch.equal(tensors["head.weight"], tensors[f"{second}.weight"])
    load_checkpoint(again, tensors)
    assert torch.equal(again.head.classifier.weight, network.head.classifier.weight)


# transformers


KEYS: dict[str, Any] = json.loads(Path(__file__).with_name("transformers_keys.json").read_text())


@pytest.mark.parametrize("distilled", [True, False])
def test_transformers_entries_are_those_it_was_seen_to_have(distilled: bool) -> None:
    wanted = {name: tuple(shape) for name, shape in KEYS["entries"].items()}
    if not distilled:
        wanted = {name: shape for name, shape in wanted.items() if name not in KEYS["only_with_two_heads"]}
    ours = on_meta(dataclasses.replace(PRESETS["efficientformer_l1"], distilled=distilled))
    assert shapes(to_layout(ours, "transformers")) == wanted


def transformers_model(name: str, heads: str) -> Any:
    """The real thing. Its defaults are traps: `dim`, `hidden_size` and `num_labels` follow nothing."""
    pytest.importorskip("transformers", reason="transformers is not installed (nor needed)")
    package = "transformers.models.deprecated.efficientformer"
    try:
        parts = [
            importlib.import_module(f"{package}.{part}_efficientformer")
            for part in ("configuration", "modeling")
        ]
    except ModuleNotFoundError:
        pytest.skip("this version of transformers has no EfficientFormer (4.42 to 4.57 have it there)")
    architecture = PRESETS[name]
    config = parts[0].EfficientFormerConfig(
        hidden_sizes=list(architecture.widths),
        depths=list(architecture.depths),
        num_meta3d_blocks=sum(block.kind == "attention" for block in architecture.stages[3].blocks),
        dim=architecture.widths[3],
        hidden_size=architecture.widths[3],
        num_labels=1000,
        resolution=7,
        layer_norm_eps=1e-5,
    )
    return getattr(parts[1], f"EfficientFormerForImageClassification{heads}")(config).eval()


@pytest.mark.parametrize("name", V1)
@torch.no_grad()
def test_transformers_own_weights_give_transformers_own_outputs(name: str) -> None:
    theirs = transformers_model(name, "WithTeacher")
    randomise(theirs)
    theirs.eval()  # gathers the attention biases anew
    ours = create_model(name)
    load_checkpoint(ours, theirs.state_dict())
    x = torch.randn(1, 3, 224, 224)
    given, wanted = ours.forward_intermediates(x), theirs(x, output_hidden_states=True)
    assert relative_difference(ours(x), wanted.logits) <= 1e-5
    for stage, index in enumerate((1, 3, 5, 7)):  # 0 is the stem, 2, 4 and 6 the embeddings
        state = wanted.hidden_states[index]
        state = state if state.ndim == 4 else state.transpose(1, 2).unflatten(2, (7, 7))
        assert relative_difference(given[1][stage], state) <= 1e-5
    assert same(to_layout(ours, "transformers"), theirs.state_dict())


def test_transformers_with_one_head_is_loaded() -> None:
    theirs = transformers_model("efficientformer_l1", "")
    randomise(theirs)
    ours = create_model("efficientformer_l1", distilled=False)
    load_checkpoint(ours, theirs.state_dict())
    assert same(to_layout(ours, "transformers"), theirs.state_dict())


# The authors' code, from tables that were written down from it


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
AFFINE = ("weight", "bias")


def entries(prefix: str, ends: tuple[str, ...]) -> Iterator[str]:
    return (f"{prefix}.{end}" for end in ends)


def official_trunk(depths: tuple[int, ...], block: Callable[[int, int], Iterator[str]]) -> Iterator[str]:
    """What both papers' code has: the stem, and the blocks of each stage."""
    for index in (0, 3):
        yield from entries(f"patch_embed.{index}", AFFINE)
        yield from entries(f"patch_embed.{index + 1}", NORM)
    for stage, depth in enumerate(depths):
        for position in range(depth):
            yield from block(stage, position)


def official_heads(norm: tuple[str, ...], distilled: bool) -> Iterator[str]:
    yield from entries("norm", norm)
    for head in ("head", "dist_head")[: 1 + distilled]:
        yield from entries(head, AFFINE)


def official_v1(depths: tuple[int, ...], attending: int, distilled: bool) -> Iterator[str]:
    """The first paper's: `network` holds stages and embeddings in turn, the flatten is a block of its own."""

    def block(stage: int, position: int) -> Iterator[str]:
        flat = stage == 3 and position >= depths[3] - attending
        prefix = f"network.{2 * stage}.{position + flat}"
        yield from (f"{prefix}.layer_scale_{index}" for index in (1, 2))
        if flat:
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "token_mixer.qkv", "token_mixer.proj"):
                yield from entries(f"{prefix}.{part}", AFFINE)
            yield from entries(f"{prefix}.token_mixer", ("attention_biases", "attention_bias_idxs"))
        else:
            for number in (1, 2):
                yield from entries(f"{prefix}.mlp.fc{number}", AFFINE)
                yield from entries(f"{prefix}.mlp.norm{number}", NORM)

    yield from official_trunk(depths, block)
    for index in (1, 3, 5):
        yield from entries(f"network.{index}.proj", AFFINE)
        yield from entries(f"network.{index}.norm", NORM)
    yield from official_heads(AFFINE, distilled)


def official_v2(depths: tuple[int, ...], attending: int, distilled: bool) -> Iterator[str]:
    """The second paper's: convolutions and norms in pairs, some in an nn.Sequential, some named."""

    def pair(prefix: str, first: int = 0) -> Iterator[str]:
        yield from entries(f"{prefix}.{first}", AFFINE)
        yield from entries(f"{prefix}.{first + 1}", NORM)

    def block(stage: int, position: int) -> Iterator[str]:
        prefix = f"network.{2 * stage}.{position}"
        for conv, norm in (("fc1", "norm1"), ("mid", "mid_norm"), ("fc2", "norm2")):
            yield from entries(f"{prefix}.mlp.{conv}", AFFINE)
            yield from entries(f"{prefix}.mlp.{norm}", NORM)
        yield f"{prefix}.layer_scale_2"
        if stage < 2 or position < depths[stage] - attending:
            return
        yield f"{prefix}.layer_scale_1"
        mixer = f"{prefix}.token_mixer"
        for part in ("stride_conv", "q", "k", "v", "v_local")[stage == 3 :]:
            yield from pair(f"{mixer}.{part}")
        yield from pair(f"{mixer}.proj", 1)
        for part in ("talking_head1", "talking_head2"):
            yield from entries(f"{mixer}.{part}", AFFINE)
        yield from entries(mixer, ("attention_biases", "attention_bias_idxs"))

    yield from official_trunk(depths, block)
    for index in (1, 3):
        yield from entries(f"network.{index}.proj", AFFINE)
        yield from entries(f"network.{index}.norm", NORM)
    yield from entries("network.5.conv", AFFINE)
    yield from entries("network.5.bn", NORM)
    yield from entries("network.5.attn.q.local.0", AFFINE)
    for part, first in (("q.proj", 0), ("k", 0), ("v", 0), ("v_local", 0), ("proj", 1)):
        yield from pair(f"network.5.attn.{part}", first)
    yield from entries("network.5.attn", ("attention_biases", "attention_bias_idxs"))
    yield from official_heads(NORM, distilled)


@pytest.mark.parametrize("distilled", [True, False])
@pytest.mark.parametrize(
    ("name", "attending", "count"),
    [*zip(V1, (1, 4, 8), (281, 457, 649), strict=True), *zip(V2, (2, 2, 4, 6), (None,) * 4, strict=True)],
)
def test_the_authors_entries_are_those_of_the_tables(
    name: str, attending: int, count: int | None, distilled: bool
) -> None:
    architecture = dataclasses.replace(PRESETS[name], distilled=distilled)
    table = official_v1 if name in V1 else official_v2
    wanted = list(table(architecture.depths, attending, True))  # theirs have two always
    assert len(wanted) == len(set(wanted))
    assert set(to_layout(on_meta(architecture), "official")) == set(wanted)
    if count and distilled:
        assert len(wanted) == count


@pytest.mark.parametrize(("preset", "axes"), [("efficientformer_l1", ()), ("efficientformerv2_s0", (1, 1))])
def test_the_authors_layer_scales_have_the_axes_they_have(preset: str, axes: tuple[int, ...]) -> None:
    entries = shapes(to_layout(on_meta(PRESETS[preset]), "official"))
    assert entries["network.0.0.layer_scale_2"] == (PRESETS[preset].widths[0], *axes)


def test_the_authors_files_differ_from_timms_in_names_alone() -> None:
    theirs = timm.create_model("efficientformer_l1")
    randomise(theirs)
    ours = create_model("efficientformer_l1")
    load_checkpoint(ours, theirs.state_dict())
    official, wanted = to_layout(ours, "official"), theirs.state_dict()
    assert sorted(map(tuple, shapes(official).values())) == sorted(map(tuple, shapes(wanted).values()))
    assert torch.equal(
        official["network.6.4.token_mixer.qkv.weight"], wanted["stages.3.blocks.4.token_mixer.qkv.weight"]
    )
    assert torch.equal(official["network.5.proj.weight"], wanted["stages.3.downsample.conv.weight"])
    assert torch.equal(official["dist_head.bias"], wanted["head_dist.bias"])


# Every network of a family, there and back


widths = st.tuples(st.sampled_from((2, 4, 6)), *[st.integers(2, 6)] * 3)
SHAPES = {
    "attention": st.builds(Attention, st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    "embed_attention": st.builds(Attention, st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    "distilled": st.booleans(),
    "num_classes": st.integers(0, 3),
    "input_size": st.sampled_from(((64, 64), (32, 96), (96, 32), (64, 32))),
}


@st.composite
def of_family(draw: st.DrawFn, which: str) -> Architecture:
    """A small network of the first paper's blocks, or of the second's."""
    options = {name: draw(strategy) for name, strategy in SHAPES.items()}
    row: Four = draw(widths)
    if which == "v1":
        depths = draw(st.tuples(*[st.integers(0, 2)] * 3, st.integers(1, 3)))
        base = pooling(row, depths, draw(st.integers(1, depths[3])))
    else:
        expansions = draw(st.tuples(*[st.lists(st.integers(1, 2), min_size=1, max_size=3)] * 4))
        base = unified(row, expansions, draw(st.integers(0, min(map(len, expansions[2:])))))
        options["input_size"] = (64, 64)
    return dataclasses.replace(base, **options)


@pytest.mark.parametrize(("which", "layout"), PLACES)
@given(data=st.data())
def test_weights_come_back_bit_for_bit(which: str, layout: layouts.Layout, data: st.DataObject) -> None:
    architecture = data.draw(of_family(which))
    source, network = randomised(architecture), EfficientFormer(architecture)
    there = to_layout(source, layout)
    assert recognise({layouts_name(name) for name in there}) == layout
    load_checkpoint(network, there)
    learned = {name: t for name, t in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    back = network.state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in learned.items())
    assert same(to_layout(network, layout), there)


def layouts_name(name: str) -> str:
    return name.removeprefix("efficientformer.")


@pytest.mark.parametrize("which", ["v1", "v2"])
@given(data=st.data())
def test_the_authors_entries_are_those_of_the_tables_for_every_network(
    which: str, data: st.DataObject
) -> None:
    architecture = dataclasses.replace(data.draw(of_family(which)), num_classes=2)
    table = official_v1 if which == "v1" else official_v2
    attending = sum(block.kind.startswith("attention") for block in architecture.stages[3].blocks)
    wanted = set(table(architecture.depths, attending, True))
    assert set(to_layout(on_meta(architecture), "official")) == wanted


@pytest.mark.parametrize(("which", "layout"), PLACES)
@given(data=st.data())
def test_names_are_one_to_one(which: str, layout: layouts.Layout, data: st.DataObject) -> None:
    architecture = data.draw(of_family(which))
    own = list(on_meta(architecture).state_dict())
    renamed = names(architecture, own, layout)
    assert list(renamed) == own
    assert len(set(renamed.values())) == len(own)


# Wrappers


PREFIXES = {
    "module": lambda t: {f"module.{name}": tensor for name, tensor in t.items()},
    "compiled": lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()},
    "both": lambda t: {f"module._orig_mod.{name}": tensor for name, tensor in t.items()},
}


@pytest.mark.parametrize("wrap", ["", "model", "state_dict"])
@pytest.mark.parametrize("prefix", [None, *PREFIXES])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_a_wrapped_network_is_loaded(
    layout: layouts.Layout | None, prefix: str | None, wrap: str, tmp_path: Path
) -> None:
    architecture = dataclasses.replace(
        pooling((4, 6, 6, 8), (1, 1, 1, 2)), input_size=(32, 32), num_classes=3
    )
    source, network = randomised(architecture), EfficientFormer(architecture)
    tensors = dict(source.state_dict()) if layout is None else to_layout(source, layout)
    tensors = PREFIXES[prefix](tensors) if prefix else tensors
    torch.save({wrap: tensors, "epoch": 7} if wrap else tensors, tmp_path / "weights.pth")
    load_checkpoint(network, tmp_path / "weights.pth")
    assert same(dict(network.state_dict()), dict(source.state_dict()))


# What has no place


def changed(preset: str, *blocks: tuple[int, int, str], **options: Any) -> Architecture:
    architecture = PRESETS[preset]
    for stage, position, kind in blocks:
        architecture = architecture.with_block(stage, position, kind)
    return dataclasses.replace(architecture, **options)


def with_embeds(architecture: Architecture, *embeds: str) -> Architecture:
    stages = [
        dataclasses.replace(s, embed=e) for s, e in zip(architecture.stages, ("embed", *embeds), strict=True)
    ]
    return dataclasses.replace(architecture, stages=tuple(stages))


L1, S0 = "efficientformer_l1", "efficientformerv2_s0"
HOMELESS = {
    "mixed": tiny(),
    "an attention block in stage 3": changed(L1, (2, 5, "attention")),
    "no attention": changed(L1, (3, 3, "pool")),
    "a pooling block behind attention": changed(L1, (3, 2, "attention"), (3, 3, "pool")),
    "a hole": changed(L1, (0, 1, "identity")),
    "another stem": changed(L1, stem="stem_patch"),
    "the other paper's block": changed(L1, (1, 0, "ffn")),
    "the other paper's head": changed(L1, head="head2d"),
    "the other paper's embedding": with_embeds(PRESETS[L1], "embed", "embed", "embed_attention"),
    "no attending embedding": with_embeds(PRESETS[S0], "embed", "embed", "embed"),
    "attending embeddings": with_embeds(PRESETS[S0], "embed", "embed_attention", "embed_attention"),
    "attention in stage 1": changed(S0, (0, 0, "attention2d")),
    "unstrided attention in stage 3": changed(S0, (2, 5, "attention2d")),
    "the first paper's head": changed(S0, head="head"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("architecture", HOMELESS.values(), ids=HOMELESS)
def test_a_network_that_a_layout_has_no_place_for_is_refused(
    architecture: Architecture, layout: layouts.Layout
) -> None:
    assert family(architecture) is None
    with pytest.raises(InputError, match=f"the {layout} layout has no place for the network") as caught:
        to_layout(on_meta(architecture), layout)
    assert "\n" not in str(caught.value)


def test_a_v2_whose_attending_blocks_do_not_stand_last_is_refused() -> None:
    assert family(changed(S0, (3, 1, "attention2d"), (3, 3, "ffn"))) is None


@pytest.mark.parametrize(
    ("preset", "which"), [*((name, "v1") for name in V1), *((name, "v2") for name in V2)]
)
def test_the_presets_are_of_their_families(preset: str, which: str) -> None:
    assert family(PRESETS[preset]) == which


def test_transformers_has_no_place_for_the_second_paper() -> None:
    with pytest.raises(InputError, match="the transformers layout has no place"):
        to_layout(on_meta(PRESETS[S0]), "transformers")


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(InputError, match="unknown layout 'keras'; known: official, timm, transformers"):
        to_layout(on_meta(PRESETS[L1]), "keras")  # ty: ignore[invalid-argument-type]


def test_a_published_file_for_a_network_of_another_kind_is_refused() -> None:
    theirs, network = to_layout(on_meta(PRESETS[L1]), "timm"), EfficientFormer(tiny())
    with pytest.raises(InputError, match="the timm layout has no place"):
        load_checkpoint(network, theirs)


# Recognising


@pytest.mark.parametrize(
    "given", [set(), {"a"}, {"stem.conv1.weight"}, {"module.stages.1.embed.conv.weight"}]
)
def test_entries_of_no_layout_are_refused(given: set[str]) -> None:
    with pytest.raises(
        InputError, match=f"of none of the layouts known .* its {len(given)} entries"
    ) as caught:
        recognise(given)
    assert "\n" not in str(caught.value)


def test_our_own_entries_are_recognised() -> None:
    assert recognise(on_meta(tiny()).state_dict()) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_entry_of_a_layout_lost_is_named_by_the_name_it_has_there(layout: layouts.Layout) -> None:
    architecture = dataclasses.replace(pooling((4, 6, 6, 8), (1, 1, 1, 2)), input_size=(32, 32))
    network = randomised(architecture)
    tensors = to_layout(network, layout)
    lost = next(name for name in tensors if re.search(r"mlp\.\w+\.weight", name))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match=f"the first is {re.escape(layouts_name(lost))}"):
        load_checkpoint(network, {name: t for name, t in tensors.items() if name != lost})
    assert same(dict(network.state_dict()), before)


def test_stages_without_blocks_are_renamed_too() -> None:
    stages = tuple(Stage(4, (Block("attention"),) if index == 3 else ()) for index in range(4))
    architecture = Architecture(stages, num_classes=1)
    assert "network.6.1.layer_scale_1" in to_layout(on_meta(architecture), "official")
