"""Attacks on the loaders: whatever a file holds, it is weights or an `InputError` of one line."""

from __future__ import annotations

import argparse
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from efficientformer import PRESETS, EfficientFormer, InputError, create_model, load_checkpoint, load_model
from efficientformer.model import weights
from efficientformer.model.checkpoint import read_checkpoint
from efficientformer.model.weights import read_about, read_tensors, save_tensors
from tests.model.files import (
    BIASES,
    STEM,
    Call,
    good,
    legacy_file,
    overwritten,
    pickle_of_tensor,
    quietly,
    safetensors_file,
    two_directories,
    with_about,
    with_architecture,
    zip_file,
)
from tests.strategies import randomised, tiny

Make = Callable[[Path], None]
Load = Callable[[EfficientFormer, Path], None]


def refused(network: EfficientFormer, load: Callable[[], object], *names: str) -> str:
    """The message of the one line with which loading is refused; the network stays as it was."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert message.isprintable()
    assert any(name in message for name in names), message
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return message


# Damage


def write(tensors: dict[str, Tensor], path: Path) -> None:
    match path.name:
        case "weights.safetensors":
            save_file(tensors, path)
        case "legacy.pth":
            torch.save(tensors, path, _use_new_zipfile_serialization=False)
        case _:
            torch.save(tensors, path)


NAMES = ("weights.safetensors", "weights.pth", "legacy.pth")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file_is_named(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    write(good(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    network = randomised(tiny())
    message = refused(network, lambda: load_checkpoint(network, path), name)
    assert "cannot be read as weights" in message


SMALL = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.arange(5), "c": torch.zeros(2).half()}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1, max_size=4), insert=st.booleans())
def test_a_damaged_file_is_read_or_refused(
    name: str, place: float, value: bytes, insert: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    if name.endswith("safetensors"):
        save_tensors(path, SMALL, {"architecture": PRESETS["efficientformer_l1"].to_json()})
    else:
        write(SMALL, path)
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] + value + content[at + (0 if insert else len(value)) :])
    try:
        tensors = read_checkpoint(path).tensors
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(tensor, Tensor) for tensor in tensors.values())


# Files that are none


def loop(path: Path) -> None:
    path.symlink_to(path)


def text(path: Path) -> None:
    path.write_text("buy milk\n" * 100)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ""])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "no such file"),
        (loop, "no such file"),
        (os.mkfifo, "no such file"),
        (Path.touch, "cannot be read as weights"),
        (text, "cannot be read as weights"),
    ],
    ids=["nothing", "folder", "loop", "pipe", "empty", "text"],
)
def test_what_is_no_file_of_weights_is_named(make: Make, message: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes{suffix}"
    make(path)
    network = randomised(tiny())
    assert message in refused(network, lambda: load_checkpoint(network, path), path.name)


DOCUMENTS = [
    {},
    [1, 2],
    torch.zeros(3),
    7,
    None,
    {"epoch": 3},
    {"model": {"lr": 0.1}},
    {"model": [1, 2]},
    {"model": torch.zeros(3)},
    {"model": None},
    {"model": {"model": {"a": torch.zeros(1)}}},
    {"state_dict": {}},
    {0: torch.zeros(3)},
    {"a": torch.zeros(1), "b": "text"},
]


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ""])
def test_a_file_without_a_state_dict_is_named(document: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"other{suffix}"
    torch.save(document, path)
    network = randomised(tiny())
    message = refused(network, lambda: load_checkpoint(network, path), path.name)
    assert "holds no state dict of tensors" in message


def test_a_document_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.pth"
    document: dict[str, Any] = {}
    document["model"] = document
    torch.save(document, path)
    with pytest.raises(InputError, match="holds no state dict"):
        read_tensors(path)


# Code


class Crater:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def by_torch(path: Path, document: object) -> None:
    torch.save(document, path)


def by_old_torch(path: Path, document: object) -> None:
    torch.save(document, path, _use_new_zipfile_serialization=False)


def by_pickle(path: Path, document: object) -> None:
    path.write_bytes(pickle.dumps(document))


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.bin", "bomb.safetensors", "bomb.pt", "bomb"])
@pytest.mark.parametrize("save", [by_torch, by_old_torch, by_pickle])
@pytest.mark.parametrize(
    "wrap", [lambda bomb: {"model": {"weight": bomb}}, lambda bomb: bomb, lambda bomb: [bomb]]
)
def test_code_in_a_pickle_is_not_executed(
    name: str, save: Callable[[Path, object], None], wrap: Callable[[Crater], object], tmp_path: Path
) -> None:
    path, crater = tmp_path / name, tmp_path / "crater"
    save(path, wrap(Crater(crater)))
    network = randomised(tiny())
    message = refused(network, lambda: load_checkpoint(network, path), name)
    assert "cannot be read as weights" in message
    assert not crater.exists()


@pytest.mark.parametrize(
    "call",
    [
        Call(eval, "1"),
        Call(getattr, "a", "upper"),
        Call(__import__, "os"),
        Call(torch.load, "x"),
        Call(torch.hub.load, "x", "y"),
        Call(torch._tensor._rebuild_from_type_v2, eval, str, ("1",), {}),
    ],
    ids=["eval", "getattr", "import", "torch.load", "torch.hub", "rebuild"],
)
def test_no_function_but_those_that_rebuild_tensors_is_called(call: Call, tmp_path: Path) -> None:
    for path, make in (
        (tmp_path / "zip.pth", partial(zip_file, records={})),
        (tmp_path / "old.pth", legacy_file),
    ):
        make(path, pickle.dumps({"a": call}, 2))
        with pytest.raises(InputError, match=f"{path.name}: cannot be read as weights"):
            read_tensors(path)


# Files that are more than they look


MEBIBYTE = 1 << 20


def compressed(path: Path) -> None:
    numbers = 64 * MEBIBYTE // 4
    zip_file(
        path, pickle_of_tensor(STEM, numbers, (numbers,)), {"0": bytes(4 * numbers)}, zipfile.ZIP_DEFLATED
    )


def compressed_behind_an_innocent_directory(path: Path) -> None:
    compressed(path)
    two_directories(path)


def many_compressed(path: Path) -> None:
    records = {str(index): bytes(MEBIBYTE) for index in range(64)}
    zip_file(path, pickle_of_tensor(STEM, 1, (1,)), records, zipfile.ZIP_BZIP2)


def compressed_pickle(path: Path) -> None:
    zip_file(path, pickle.dumps({"a": "x" * 64 * MEBIBYTE}), {}, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    "make",
    [
        compressed,
        many_compressed,
        compressed_pickle,
        pytest.param(
            compressed_behind_an_innocent_directory,
        ),
    ],
)
def test_an_archive_that_unpacks_to_more_is_refused_unopened(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / "bomb.pth", []
    make(path)
    assert path.stat().st_size < MEBIBYTE
    monkeypatch.setattr(weights.torch, "load", lambda *_, **__: opened.append(1) or {})
    with pytest.raises(InputError, match=r"bomb\.pth"):
        read_tensors(path)
    assert not opened


@pytest.mark.parametrize("old", [True, False])
def test_a_small_pickle_takes_little_memory(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    pickled = pickle.dumps({"a": Call(bytearray, 64 * MEBIBYTE)}, 2)
    legacy_file(path, pickled) if old else zip_file(path, pickled, {})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"bomb\.pth"):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * MEBIBYTE
    finally:
        tracemalloc.stop()


def expanded(path: Path) -> None:
    torch.save(good() | {STEM: torch.zeros(1).expand(10**6, 10**6)}, path)


def storage_beyond_its_record(path: Path) -> None:
    zip_file(path, pickle_of_tensor(STEM, 4000, (4000,)), {"0": bytes(16), "1": bytes(1 << 16)})


def negative_storage(path: Path) -> None:
    zip_file(path, pickle_of_tensor(STEM, -1, (3,)), {"0": bytes(16)})


def absurd_old_storage(path: Path) -> None:
    legacy_file(path, pickle_of_tensor(STEM, 1 << 58, (2,), None))


def old_storage_that_is_not_there(path: Path) -> None:
    legacy_file(path, pickle_of_tensor(STEM, 1 << 30, (2,), None))


def sized_by_a_call(path: Path) -> None:
    zip_file(path, pickle.dumps({"a": Call(torch.FloatTensor, 1 << 30)}, 2), {})


@pytest.mark.parametrize(
    "make",
    [
        expanded,
        storage_beyond_its_record,
        negative_storage,
        absurd_old_storage,
        sized_by_a_call,
        old_storage_that_is_not_there,
    ],
)
def test_tensors_that_claim_more_than_the_file_holds_are_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "liar.pth"
    make(path)
    with pytest.raises(InputError, match=r"liar\.pth") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


ENTRY, LOCATOR = b"PK\1\2", b"PK\6\7"


@pytest.mark.parametrize(
    ("mark", "offset", "value"),
    [
        pytest.param(ENTRY, 6, b"\xff\0", id="version"),
        pytest.param(ENTRY, 8, b"\1\0", id="encrypted"),
        pytest.param(ENTRY, 10, b"\x63\0", id="method"),
        pytest.param(ENTRY, 20, b"\1\0\0\0", id="compressed size"),
        pytest.param(ENTRY, 24, b"\1\0\0\0", id="size"),
        pytest.param(ENTRY, 42, b"\xff\xff\xff\x7f", id="place"),
        pytest.param(ENTRY, 46, b"\xff\xfe", id="name"),
        pytest.param(LOCATOR, 16, b"\2", id="several disks"),
    ],
)
def test_an_archive_with_a_spoilt_directory_is_refused(
    mark: bytes, offset: int, value: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt.pth"
    torch.save(good(), path)
    overwritten(path, mark, offset, value)
    network = randomised(tiny())
    refused(network, lambda: load_checkpoint(network, path), path.name)


@pytest.mark.parametrize("entries", [{}, {"a/readme": "hi"}, {"a/constants.pkl": "x"}, {"a/data.pkl": "x"}])
def test_an_archive_of_something_else_is_refused(entries: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=r"other\.pth: cannot be read as weights"):
        read_tensors(path)


# safetensors


PAIR = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), start: int = 0, end: int = 8) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    ("header", "body", "length"),
    [
        pytest.param(PAIR, 8, 10**6, id="header beyond the file"),
        pytest.param(PAIR, 8, 2**63, id="huge header"),
        pytest.param(PAIR, 8, 2**64 - 1, id="hugest header"),
        pytest.param(PAIR, 8, 0, id="no header"),
        pytest.param(b"", 0, None, id="empty header"),
        pytest.param(b"[]", 0, None, id="header is a list"),
        pytest.param(b"{", 0, None, id="header is no JSON"),
        pytest.param(b"[" * 100_000, 0, None, id="deep header"),
        pytest.param(b"\xff\xfe{}", 0, None, id="header is no text"),
        pytest.param(PAIR | {"b": entry(start=4, end=12)["a"]}, 12, None, id="overlap"),
        pytest.param(PAIR | {"b": entry(start=12, end=20)["a"]}, 20, None, id="hole"),
        pytest.param(entry(end=800), 8, None, id="data beyond the file"),
        pytest.param(PAIR, 16, None, id="data left over"),
        pytest.param(entry(start=8, end=0), 8, None, id="backwards"),
        pytest.param(entry(shape=(3,)), 8, None, id="shape of another size"),
        pytest.param(entry(shape=(2**62, 4)), 8, None, id="overflowing shape"),
        pytest.param(entry(shape=(-2,)), 8, None, id="negative shape"),
        pytest.param(entry("F31"), 8, None, id="unknown dtype"),
        pytest.param(entry("F6_E2M3", (8,), 0, 6), 6, None, id="dtype that torch lacks"),
        pytest.param({"__metadata__": {"about": 5}} | PAIR, 8, None, id="metadata is no text"),
        pytest.param({"__metadata__": []} | PAIR, 8, None, id="metadata is a list"),
    ],
)
def test_a_lying_header_is_refused(header: object, body: int, length: int | None, tmp_path: Path) -> None:
    path = tmp_path / "liar.safetensors"
    safetensors_file(path, header, bytes(body), length)
    network = randomised(tiny())
    for load in (lambda: load_checkpoint(network, path), lambda: load_model(path)):
        assert "cannot be read as weights" in refused(network, load, path.name)


def into_a_network(network: EfficientFormer, path: Path) -> None:
    load_checkpoint(network, path)


def as_a_model(_: EfficientFormer, path: Path) -> None:
    load_model(path)


@pytest.mark.parametrize("load", [into_a_network, as_a_model])
@pytest.mark.parametrize(
    "about",
    [
        pytest.param("{oops", id="no JSON"),
        pytest.param("", id="empty"),
        pytest.param("[1]", id="list"),
        pytest.param("3", id="number"),
        pytest.param("null", id="null"),
        pytest.param('"text"', id="text"),
        pytest.param('{"architecture":' + "9" * 10_000 + "}", id="long number"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="deep list"),
        pytest.param('{"architecture":' * 50_000 + "1" + "}" * 50_000, id="deep object"),
        pytest.param('{"architecture": [1]}', id="architecture is a list"),
        pytest.param('{"architecture": "l1"}', id="architecture is text"),
        pytest.param('{"architecture": {"format": "other/1"}}', id="other format"),
    ],
)
def test_a_header_that_describes_no_network_is_refused(load: Load, about: str, tmp_path: Path) -> None:
    path, network = tmp_path / "header.safetensors", randomised(tiny())
    with_about(path, about)
    refused(network, lambda: load(network, path), path.name)


BLOCK = ("stages", 1, "blocks", 0)


@pytest.mark.parametrize("load", [into_a_network, as_a_model])
@pytest.mark.parametrize(
    ("where", "value"),
    [
        pytest.param(("stages",), None, id="stages null"),
        pytest.param(("stages",), "abcd", id="stages text"),
        pytest.param(("stages",), [1, 2, 3, 4], id="stages numbers"),
        pytest.param(("stages", 0, "blocks"), None, id="blocks null"),
        pytest.param(("stages", 0, "blocks"), "ab", id="blocks text"),
        pytest.param(("stages", 1, "width"), "a\nb", id="width"),
        pytest.param(("stages", 1, "width"), 1e3, id="width float"),
        pytest.param(("stages", 1, "embed"), None, id="embed"),
        pytest.param((*BLOCK, "expansion"), "a\nb", id="expansion"),
        pytest.param((*BLOCK, "expansion"), True, id="expansion true"),
        pytest.param((*BLOCK, "kind"), "a\nb", id="kind"),
        pytest.param((*BLOCK, "kind"), [1], id="kind list"),
        pytest.param((*BLOCK, "more"), 1, id="more of a block"),
        pytest.param(("a\nb",), 1, id="more"),
        pytest.param(("input_size",), "ab", id="size text"),
        pytest.param(("input_size",), 5, id="size number"),
        pytest.param(("input_size",), [], id="size empty"),
        pytest.param(("input_size",), [32], id="size short"),
        pytest.param(("input_size",), [32.0, 32], id="size float"),
        pytest.param(("attention",), None, id="attention null"),
        pytest.param(("attention",), [1, 2, 3], id="attention list"),
        pytest.param(("attention", "heads"), "a\nb", id="heads text"),
        pytest.param(("activation",), {}, id="activation"),
        pytest.param(("head",), "a\nb", id="head"),
        pytest.param(("global_pool",), None, id="pool"),
        pytest.param(("distilled",), "yes", id="distilled"),
    ],
)
def test_a_header_with_a_spoilt_architecture_is_refused(
    load: Load, where: tuple[str | int, ...], value: Any, tmp_path: Path
) -> None:
    path, network = tmp_path / "header.safetensors", randomised(tiny())
    with_architecture(path, *where, value=value)
    refused(network, lambda: load(network, path), path.name, "architecture", "input size")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("num_classes",), 10**15),
        (("in_channels",), 10**15),
        (("stages", 1, "width"), 10**15),
        ((*BLOCK[:-1], 1, "expansion"), 10**30),
        (("attention", "heads"), 10**15),
        (("input_size",), [32 * 10**9] * 2),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else None,
)
def test_a_header_cannot_ask_for_more_than_the_file_holds(
    where: tuple[str | int, ...], value: Any, tmp_path: Path
) -> None:
    path, network = tmp_path / "greedy.safetensors", randomised(tiny())
    with_architecture(path, *where, value=value)
    refused(network, lambda: load_model(path), path.name, "stem.", "stages.", "head.")


# Tensors


def spoilt(name: str, make: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    tensors = good()
    return tensors | {name: quietly(lambda: make(tensors[name]))}


HEAD = "head.classifier.weight"


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param(STEM, lambda t: t[:1], id="wrong shape"),
        pytest.param(STEM, lambda t: t[..., None], id="axis too many"),
        pytest.param(STEM, lambda t: t.flatten(), id="flat"),
        pytest.param(STEM, lambda t: t[:0], id="empty"),
        pytest.param(STEM, lambda _: torch.tensor(1.0), id="number"),
        pytest.param(STEM, lambda _: torch.zeros(1).expand(100, 100), id="expanded a little"),
        pytest.param("stages.0.blocks.0.ls1.gamma", lambda t: t.view(1, -1, 1, 1), id="scale of four axes"),
        pytest.param(STEM, lambda t: t.to("meta"), id="without data"),
        pytest.param(STEM, lambda t: t.to_sparse(), id="sparse"),
        pytest.param(HEAD, lambda t: t.to_sparse_csr(), id="sparse rows"),
        pytest.param(BIASES, lambda t: t.new_zeros(2, 0), id="empty table"),
        pytest.param(BIASES, lambda t: t.new_zeros(0, 9), id="table of no heads"),
        pytest.param(BIASES, lambda t: t.new_zeros(2, 5), id="table of no grid"),
        pytest.param(BIASES, lambda t: t.new_zeros(4), id="table of one axis"),
        pytest.param(STEM, lambda t: t.int(), id="whole numbers"),
        pytest.param(STEM, lambda t: t > 0, id="booleans"),
        pytest.param(BIASES, lambda t: t.int(), id="table of whole numbers"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    name: str, make: Callable[[Tensor], Tensor], as_file: bool, tmp_path: Path
) -> None:
    tensors, network, path = spoilt(name, make), randomised(tiny()), tmp_path / "weights.pth"
    if as_file:
        quietly(lambda: torch.save(tensors, path) or torch.zeros(0))
    refused(network, lambda: load_checkpoint(network, path if as_file else tensors), name, path.name)


@pytest.mark.parametrize("as_file", [True, False])
def test_complex_numbers_are_refused(as_file: bool, tmp_path: Path) -> None:
    tensors, network = spoilt(STEM, lambda t: t.to(torch.complex64)), randomised(tiny())
    torch.save(tensors, tmp_path / "weights.pth")
    refused(network, lambda: load_checkpoint(network, tmp_path / "weights.pth" if as_file else tensors), STEM)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of the quantised storage
@pytest.mark.parametrize("as_file", [True, False])
def test_quantised_tensors_are_refused(as_file: bool, tmp_path: Path) -> None:
    tensors = spoilt(STEM, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8))
    network, path = randomised(tiny()), tmp_path / "weights.pth"
    quietly(lambda: torch.save(tensors, path) or torch.zeros(0))
    refused(network, lambda: load_checkpoint(network, path if as_file else tensors), STEM, path.name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["stages.0.\nextra", "stages.0.\x1b[2Jextra"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_name_of_several_lines_is_quoted(name: str, alone: bool, suffix: str, tmp_path: Path) -> None:
    path, network = tmp_path / f"weights{suffix}", randomised(tiny())
    tensors = {name: torch.zeros(1)} if alone else good() | {name: torch.zeros(1)}
    write(tensors, path)
    refused(network, lambda: load_checkpoint(network, path), "extra")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "efficientformer."])
def test_two_entries_of_one_name_after_unwrapping_are_refused(wrapper: str) -> None:
    network = randomised(tiny())
    tensors = good() | {wrapper + STEM: torch.zeros(4, 3, 3, 3)}
    refused(network, lambda: load_checkpoint(network, tensors), STEM)


def test_numbers_that_are_none_are_loaded_as_they_are() -> None:
    network = randomised(tiny())
    load_checkpoint(network, spoilt(STEM, lambda t: t * float("nan")))
    assert network.stem.conv1.weight.isnan().all()  # a diverged network can be looked at


# What `create_model` looks at before it loads


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        pytest.param(
            "head.classifier.bias",
            torch.tensor(1.0),
            {},
            id="bias",
        ),
        pytest.param(
            STEM,
            torch.zeros(4, 4, 3, 3),
            {"in_chans": 1},
            id="4 to 1",
        ),
        pytest.param(
            STEM,
            torch.zeros(4, 4, 3, 3),
            {"in_chans": 2},
            id="4 to 2",
        ),
        pytest.param(
            STEM,
            torch.zeros(4, 1, 3, 3),
            {"in_chans": 5},
            id="1 to 5",
        ),
        pytest.param(
            STEM,
            torch.zeros(4, 0, 3, 3),
            {"in_chans": 1},
            id="0 to 1",
        ),
        pytest.param(STEM, torch.zeros(4, 1, 3, 3), {}, id="1 to 3"),
        pytest.param(STEM, torch.zeros(4, 4, 3, 3), {}, id="4 to 3"),
        pytest.param(STEM, torch.zeros(4, 6, 3, 3), {"in_chans": 1}, id="6 to 1"),
        pytest.param(STEM, torch.zeros(4, 3), {"in_chans": 1}, id="no kernel"),
    ],
)
def test_weights_that_cannot_be_adapted_are_named(
    name: str, value: Tensor, options: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny())
    path = tmp_path / "weights.pth"
    torch.save(good() | {name: value}, path)
    network = randomised(tiny())
    refused(
        network, lambda: create_model("tiny", path, num_classes=3, input_size=32, **options), name, path.name
    )


# What is read


def test_tensors_are_saved_in_whatever_memory_format(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 5)
    stored = {"last": x.to(memory_format=torch.channels_last), "part": x[:, 1:, ::2], "same": x}
    save_tensors(tmp_path / "t.safetensors", stored, {"step": 3, "name": "größe"})
    assert all(torch.equal(t, stored[k]) for k, t in read_tensors(tmp_path / "t.safetensors").items())
    assert read_about(tmp_path / "t.safetensors") == {"step": 3, "name": "größe"}


def test_a_file_without_a_document_in_its_header_has_an_empty_one(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    assert read_about(tmp_path / "foreign.safetensors") == {}


def test_what_torch_saved_before_it_used_archives_is_refused(tmp_path: Path) -> None:
    by_old_torch(tmp_path / "old.pth", good())
    with pytest.raises(InputError, match=r"old\.pth.*of torch 1\.6 or later"):
        read_tensors(tmp_path / "old.pth")


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ""])
@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_what_torch_saved_is_read(suffix: str, wrap: str | None, tmp_path: Path) -> None:
    tensors, about = good(), {"epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save({wrap: tensors, **about} if wrap else tensors, tmp_path / f"weights{suffix}")
    read = read_tensors(tmp_path / f"weights{suffix}")
    assert list(read) == list(tensors)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.items())
