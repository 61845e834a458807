from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from efficientformer import (
    Architecture,
    EfficientFormer,
    InputError,
    create_model,
    load_checkpoint,
    load_model,
    save_model,
    to_layout,
)
from efficientformer.model.blocks.bias import resize_bias
from efficientformer.model.weights import read_about, read_tensors, save_tensors
from tests.strategies import architectures, randomise, randomised, tiny

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
def test_our_weights_from_a_file(suffix: str, wrap: str | None, tmp_path: Path) -> None:
    source, path = randomised(tiny()), tmp_path / f"weights{suffix}"
    tensors = source.state_dict()
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({wrap: tensors} if wrap else tensors, path)
    for name in (path, str(path)):
        network = EfficientFormer(tiny())
        load_checkpoint(network, name)
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


# The attention bias and the resolution


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
def test_a_bias_table_of_its_own_size_is_left_alone(height: int, width: int, heads: int) -> None:
    table = torch.randn(heads, height * width)
    assert torch.equal(resize_bias(table, (height, width)), table)


@given(st.integers(2, 6), st.integers(2, 7), st.integers(2, 7))
def test_a_bias_table_for_another_grid_is_interpolated_between_its_offsets(
    side: int, height: int, width: int
) -> None:
    assume(height * width != side * side)  # such a one is taken for its own size
    table = torch.randn(2, side * side)
    given = resize_bias(table, (height, width)).view(2, height, width)
    offsets = np.linspace(0, 1, side)
    rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    for head in range(2):
        square = table[head].view(side, side).numpy()
        wanted = RegularGridInterpolator((offsets, offsets), square)((rows, columns))
        assert np.allclose(given[head].numpy(), wanted, atol=1e-5)


def test_a_table_keeps_its_number_type() -> None:
    assert resize_bias(torch.zeros(1, 4, dtype=torch.bfloat16), (3, 3)).dtype == torch.bfloat16


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
    try:
        load_checkpoint(network, path)
    except InputError:
        return
    assert not torch.equal(network.get_parameter(BIASES), source.get_parameter(BIASES))


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
        (lambda t: t | {BIASES: torch.zeros(2, 5)}, "5 entries is of no square grid"),
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


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.bin", "bomb.safetensors", "bomb.pt", "bomb"])
@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_pickle_is_not_executed(name: str, by_torch: bool, tmp_path: Path) -> None:
    path, crater = tmp_path / name, tmp_path / "crater"
    document = {"model": {"weight": Bomb(crater)}}
    if by_torch:
        torch.save(document, path)
    else:
        path.write_bytes(pickle.dumps(document))
    with pytest.raises(InputError, match=f"{name}: cannot be read as weights") as caught:
        load_checkpoint(EfficientFormer(tiny()), path)
    assert "\n" not in str(caught.value)
    assert not crater.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_named(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    tensors = randomised(tiny()).state_dict()
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=f"weights{suffix}: cannot be read as weights") as caught:
        load_checkpoint(EfficientFormer(tiny()), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "."])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(EfficientFormer(tiny()), tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_another_kind_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_text("buy milk\n" * 100)
    with pytest.raises(InputError, match=f"notes{suffix}: cannot be read as weights"):
        load_checkpoint(EfficientFormer(tiny()), path)


@pytest.mark.parametrize("document", [{}, [1, 2], torch.zeros(3), 7, {"epoch": 3}, {"model": {"lr": 0.1}}])
def test_a_file_without_a_state_dict_is_named(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(document, path)
    with pytest.raises(InputError, match=r"other\.pth: holds no state dict of tensors"):
        load_checkpoint(EfficientFormer(tiny()), path)


@pytest.mark.parametrize("document", [{"model": [1, 2]}, {"model": torch.zeros(3)}, {0: torch.zeros(3)}])
def test_a_state_dict_of_another_shape_is_named(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(document, path)
    with pytest.raises(InputError, match=r"other\.pth: holds no state dict of tensors"):
        load_checkpoint(EfficientFormer(tiny()), path)


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


def test_tensors_are_saved_in_whatever_memory_format(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 5)
    stored = {"last": x.to(memory_format=torch.channels_last), "part": x[:, 1:, ::2], "same": x}
    save_tensors(tmp_path / "t.safetensors", stored, {"step": 3, "name": "größe"})
    assert all(torch.equal(t, stored[k]) for k, t in read_tensors(tmp_path / "t.safetensors").items())
    assert read_about(tmp_path / "t.safetensors") == {"step": 3, "name": "größe"}


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
