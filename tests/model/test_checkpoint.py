from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from efficientformer import (
    Architecture,
    Attention,
    Block,
    EfficientFormer,
    FeatureExtractor,
    InputError,
    Stage,
    create_model,
    load_checkpoint,
    load_model,
    save_model,
    to_layout,
)
from efficientformer.model.blocks.bias import resize_bias
from efficientformer.model.layouts import Layout
from efficientformer.model.weights import read_about, save_tensors
from efficientformer.presets import pooling
from tests.strategies import architectures, randomise, randomised, relative_difference, tiny

Tensors = dict[str, Tensor]
BIASES = "stages.3.blocks.1.token_mixer.attention_biases"


def same(network: EfficientFormer, other: EfficientFormer) -> bool:
    mine, theirs = network.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


# What can be loaded


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [(".safetensors", None), (".pth", None), (".bin", None), (".pth", "model"), (".pth", "state_dict")],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_our_weights_from_a_file(suffix: str, wrap: str | None, as_text: bool, tmp_path: Path) -> None:
    source, path = randomised(tiny()), tmp_path / f"weights{suffix}"
    tensors = source.state_dict()
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({wrap: tensors} if wrap else tensors, path)
    network = EfficientFormer(tiny())
    load_checkpoint(network, str(path) if as_text else path)
    assert same(network, source)


def test_our_weights_from_a_mapping_are_copied() -> None:
    source, network = randomised(tiny()), EfficientFormer(tiny())
    load_checkpoint(network, source.state_dict())
    assert same(network, source)
    randomise(source, seed=1)
    assert not same(network, source)


def test_tensors_that_are_made_anew_may_be_there_or_not() -> None:
    source, network = randomised(tiny()), EfficientFormer(tiny())
    tensors = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_checkpoint(network, tensors)
    load_checkpoint(network, tensors | {BIASES.replace("biases", "bias_idxs"): torch.zeros(1)})
    assert same(network, source)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timms_weights_from_a_file(suffix: str, tmp_path: Path) -> None:
    theirs, path = timm.create_model("efficientformer_l1").eval(), tmp_path / f"l1{suffix}"
    randomise(theirs)
    if suffix == ".safetensors":
        save_file(theirs.state_dict(), path)
    else:
        torch.save(theirs.state_dict(), path)
    back = to_layout(create_model("efficientformer_l1", path), "timm")
    assert set(back) == set(theirs.state_dict())
    assert all(torch.equal(tensor, back[name]) for name, tensor in theirs.state_dict().items())


def test_other_number_types_are_converted() -> None:
    source, network = randomised(tiny()), EfficientFormer(tiny())
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in source.state_dict().items()}
    load_checkpoint(network, halves)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert torch.equal(network.stem.conv1.weight, source.stem.conv1.weight.bfloat16().float())


# The classifiers


def classifiers(network: EfficientFormer) -> Tensors:
    return {k: v.clone() for k, v in network.state_dict().items() if k.startswith(("head.c", "head.d"))}


@pytest.mark.parametrize("classes", [3, 5, 0])
@pytest.mark.parametrize("distilled", [True, False])
def test_the_networks_own_classifiers_are_kept_where_that_is_asked(classes: int, distilled: bool) -> None:
    source = randomised(tiny(num_classes=5))
    network = randomised(tiny(num_classes=classes, distilled=distilled), seed=1)
    before = classifiers(network)
    assert len(before) == (0 if not classes else 2 + 2 * distilled)
    load_checkpoint(network, source.state_dict(), keep_classifiers=True)
    after = classifiers(network)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    rest = {name: tensor for name, tensor in source.state_dict().items() if name not in classifiers(source)}
    given = network.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in rest.items())


def test_a_network_without_classes_leaves_the_classifiers_of_a_checkpoint_out() -> None:
    source, network = randomised(tiny()), EfficientFormer(tiny(num_classes=0)).eval()
    load_checkpoint(network, source.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), source.forward_head(source.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("kept", [True, False])
def test_a_checkpoint_without_classifiers_fills_a_network_that_keeps_its_own(kept: bool) -> None:
    tensors = {
        k: v for k, v in randomised(tiny()).state_dict().items() if k not in classifiers(randomised(tiny()))
    }
    network = EfficientFormer(tiny())
    if kept:
        load_checkpoint(network, tensors, keep_classifiers=True)
    else:
        with pytest.raises(InputError, match=r"4 tensors are missing, the first is head\.classifier\.bias"):
            load_checkpoint(network, tensors)


@pytest.mark.parametrize("layout", [None, "timm", "official", "transformers"])
def test_one_classifier_takes_the_mean_of_two(layout: Layout | None) -> None:
    architecture = replace(pooling((4, 6, 6, 8), (1, 1, 1, 2)), input_size=(32, 32), num_classes=3)
    two, one = randomised(architecture), EfficientFormer(replace(architecture, distilled=False)).eval()
    load_checkpoint(one, two.state_dict() if layout is None else to_layout(two, layout))
    first, second = two.get_classifier()
    assert torch.equal(one.get_classifier().weight, torch.stack([first.weight, second.weight]).mean(0))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_difference(one(x), two(x)) <= 1e-5


def test_two_classifiers_do_not_come_out_of_one() -> None:
    one, two = randomised(tiny(distilled=False)), randomised(tiny(), seed=1)
    with pytest.raises(InputError, match=r"2 tensors are missing, the first is head\.distillation\.bias"):
        load_checkpoint(two, one.state_dict())


@pytest.mark.parametrize("name", ["head.classifier.weight", "head.distillation.bias"])
def test_two_classifiers_of_different_shapes_have_no_mean(name: str) -> None:
    tensors = randomised(tiny()).state_dict()
    with pytest.raises(InputError, match=r"head\.(classifier|distillation)\."):
        load_checkpoint(EfficientFormer(tiny(distilled=False)), tensors | {name: torch.zeros(7, 16)})


# The attention bias and the resolution


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 128), (160, 64)])
def test_weights_of_one_resolution_fit_another(size: tuple[int, int]) -> None:
    source = randomised(tiny(input_size=(96, 96)))
    network = EfficientFormer(tiny(input_size=size)).eval()
    load_checkpoint(network, source.state_dict())
    for name, parameter in network.named_parameters():
        if not name.endswith("attention_biases"):
            assert torch.equal(parameter, source.get_parameter(name)), name
    near = network.get_parameter(BIASES)[:, 0], source.get_parameter(BIASES)[:, 0]
    assert torch.allclose(*near)  # offset 0 stays offset 0
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(1, 3, *size))).all()


def test_weights_of_a_landscape_are_not_taken_verbatim_for_a_portrait(tmp_path: Path) -> None:
    source, path = randomised(tiny(input_size=(64, 96))), tmp_path / "landscape.safetensors"
    save_model(path, source)  # its header says which grid the table is of
    network = EfficientFormer(tiny(input_size=(96, 64)))
    load_checkpoint(network, path)
    given, wanted = network.get_parameter(BIASES), source.get_parameter(BIASES)
    assert not torch.equal(given, wanted)
    assert torch.equal(given, resize_bias(wanted, (3, 2), (2, 3)))


@given(
    st.sampled_from(((64, 64), (32, 96), (96, 64), (64, 96))),
    st.sampled_from(((64, 64), (96, 64), (128, 32))),
)
def test_every_table_of_a_saved_model_is_interpolated_from_its_own_grid(
    own: tuple[int, int], size: tuple[int, int]
) -> None:
    source, network = randomised(unified_of(own)), EfficientFormer(unified_of(size))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model.safetensors", source)
        load_checkpoint(network, Path(folder) / "model.safetensors")
    grids = dict(network.architecture.named_layers())
    tables = [name for name, _ in source.named_parameters() if name.endswith("attention_biases")]
    assert len(tables) == 3
    for name, layer in source.architecture.named_layers():
        for table in (table for table in tables if table.startswith(f"{name}.")):
            assert layer.bias_grid is not None
            wanted = resize_bias(
                source.get_parameter(table), grids[name].bias_grid or (0, 0), layer.bias_grid
            )
            assert torch.equal(network.get_parameter(table), wanted)


def unified_of(size: tuple[int, int]) -> Architecture:
    """Tables of three kinds: in a plain block, in a strided one, in the embedding between."""
    blocks = [(), (), (Block("attention2d", 1),), (Block("attention", 1),)]
    stages = tuple(Stage(4, row, "embed") for row in blocks[:3])
    return Architecture(
        (*stages, Stage(4, blocks[3], "embed_attention")),
        input_size=size,
        num_classes=2,
        attention=Attention(2, 2, 2),
        embed_attention=Attention(2, 2, 2),
    )


# What cannot


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "stem.conv2.bias"}, r"1 tensors.*stem\.conv2\.bias"),
        (
            lambda t: {k: v for k, v in t.items() if "head" not in k},
            r"6 tensors are.*head\.classifier",
        ),
        (lambda _: {}, "none of the layouts known .*its 0 entries"),
        (lambda t: t | {"stages.0.extra": torch.zeros(1)}, r"1 tensors are unknown.*stages\.0\.extra"),
        (lambda t: renamed(t, "stem.", "steam."), r"missing, the first is stem\."),
        (
            lambda t: t | {"head.classifier.weight": torch.zeros(5, 16)},
            r"head\.classifier\.weight is \(5, 16\), this network needs \(3, 16\)",
        ),
        (lambda t: t | {"stem.norm1.running_var": torch.ones(5)}, r"stem\.norm1\.running_var is \(5,\)"),
        (lambda t: t | {BIASES: torch.zeros(2, 5)}, "5 entries is of no grid of"),
        (lambda t: t | {BIASES: torch.zeros(3, 4)}, r"attention_biases is \(3, 1\).*needs \(2, 1\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[Tensors], Tensors], message: str) -> None:
    network = randomised(tiny())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(network, change(randomised(tiny(), seed=1).state_dict()))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("shape", [(4,), (1, 2, 2), ()])
def test_a_bias_table_that_is_no_table_is_named(shape: tuple[int, ...]) -> None:
    tensors = randomised(tiny()).state_dict() | {BIASES: torch.zeros(shape)}
    with pytest.raises(InputError, match=BIASES):
        load_checkpoint(EfficientFormer(tiny()), tensors)


def test_timms_weights_of_another_depth_are_refused() -> None:
    theirs = timm.create_model("efficientformer_l1").state_dict()
    with pytest.raises(InputError, match=r"missing, the first is stages\.0\.blocks\.3"):
        load_checkpoint(create_model("efficientformer_l3"), theirs)


# Our own files


@given(architecture=architectures())
def test_a_saved_model_comes_back_with_its_architecture(
    architecture: Architecture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    saved = randomised(architecture)
    save_model(path, saved)
    loaded = load_model(path)
    assert loaded.architecture == architecture
    assert same(loaded, saved)


def test_a_saved_model_is_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network = randomised(tiny())
    save_model(path, network)
    tensors = load_file(path)
    assert set(tensors) == set(network.state_dict())
    assert Architecture.from_json(read_about(path)["architecture"]) == tiny()


def test_weights_without_an_architecture_are_no_model_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    assert read_about(path) == {}
    with pytest.raises(InputError, match=r"foreign\.safetensors: has no architecture in its header"):
        load_model(path)


def test_a_header_that_describes_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"weight": torch.zeros(1)}, {"architecture": {"format": "other/1"}})
    with pytest.raises(InputError, match="expected a JSON object"):
        load_model(path)


def test_a_pth_file_is_no_model_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(randomised(tiny()).state_dict(), path)
    with pytest.raises(InputError, match=r"model\.pth"):
        load_model(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_model_keeps_its_number_type(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = randomised(tiny()).to(dtype)
    save_model(tmp_path / "m.safetensors", saved)
    assert same(load_model(tmp_path / "m.safetensors"), saved)


def test_a_model_is_saved_under_its_own_ending_and_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.bin: networks are saved as \.safetensors"):
        save_model(tmp_path / "m.bin", randomised(tiny()))
    with pytest.raises(InputError, match="whole network is needed"):
        save_model(tmp_path / "m.safetensors", FeatureExtractor(randomised(tiny())))  # ty: ignore
