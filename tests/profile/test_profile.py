from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from efficientformer import Architecture, Attention, Block, InputError, Stage
from efficientformer.files import write_json
from efficientformer.latency.measurement import Measurement
from efficientformer.latency.subjects import Subject, count_macs, peer, subject
from efficientformer.latency.target import Target
from efficientformer.latency.untrained import untrained
from efficientformer.profile import Profile, findings, profile
from efficientformer.profile import run as running
from efficientformer.profile.alone import blocks_alone
from efficientformer.profile.blocks import Map, Piece, cut, map_of, place
from efficientformer.profile.grouping import by_block, by_kind, placed
from efficientformer.profile.kinds import SORTS, alone, kind_of, sort_of
from efficientformer.profile.result import NOWHERE
from efficientformer.profile.work import macs_of
from efficientformer.runtimes import RUNTIMES, NoProfilerError, Operator, Trace
from tests.strategies import tiny

QUICK: dict[str, Any] = {"launches": 1, "seconds": 0.2, "rounds": 4, "min_samples": 12, "runs": 10}
SMALL = Architecture(  # about a millisecond: enough for operators to be more than calls
    tuple(
        Stage(width, (Block(kind, 4),))
        for width, kind in ((32, "pool"), (64, "pool"), (128, "pool"), (256, "attention"))
    ),
    input_size=(128, 128),
    num_classes=10,
    attention=Attention(4, 16, 64),
)

FIRST = Piece("stem", "stem", "stem 3→8 @32×32", 6_000_000)
SECOND = Piece("stages.0.blocks.0", "pool", "pool 8 @8×8", 3_000_000)
THIRD = Piece("head", "head", "head 8→3 @1×1", 1_000_000)
PIECES = (FIRST, SECOND, THIRD)
OPERATORS = (
    Operator("reorder", "ReorderInput", 0.5, "", "", "convert"),
    Operator("0/Conv_0", "Conv", 2.0, "0.0"),
    Operator("0/Relu_1", "Relu", 0.5, "0.1"),
    Operator("1/Conv_2", "Conv", 1.0, "1.mlp.0", "1×4×8×8, 8×4×3×3, 8 → 1×8×8×8"),
    Operator("nameless", "Mul", 0.25, ""),
    Operator("1/Gelu_3", "Gelu", 0.75, "1.mlp.1"),
    Operator("reorder_2", "ReorderOutput", 0.25, "", "", "convert"),
    Operator("2/Reshape_4", "Reshape", 0.25, "2"),
    Operator("2/Gemm_5", "Gemm", 4.0, "2.linear", "", "fallback"),
    Operator("2/LayerNormalization_6", "LayerNormalization", 0.5, "2.norm"),
)


def numbered(path: str) -> tuple[str, str]:
    index, _, rest = path.partition(".")
    return PIECES[int(index)].name, rest


WHERE = Map(numbered, PIECES)
TRACE = Trace(OPERATORS, tuple([12.0] * 20), "a profiler")


def receipt(median_ms: float, spread: float = 0.0) -> Measurement:
    samples = tuple(median_ms * (1 + spread * (index - 10) / 10) for index in range(21))
    return Measurement("net", "onnxruntime", samples, {"cores": "2"}, "2026-03-04T05:06:07+00:00")


def made(operators: tuple[Operator, ...] = OPERATORS, whole: Measurement | None = None) -> Profile:
    placed_ = placed(dataclasses.replace(TRACE, operators=operators), WHERE)
    blocks, before = by_block(placed_, WHERE), whole or receipt(12.5)
    return Profile(
        model="net",
        target="onnxruntime:cpu:threads=1:precision=fp32",
        macs=10_000_000,
        before=before,
        after=before,
        profiler="a profiler",
        profiled=dataclasses.replace(before, samples_ms=tuple([15.0] * 20)),
        operators=placed_,
        blocks=blocks,
        kinds=by_kind(placed_),
        findings=findings(placed_, blocks),
    )


@pytest.mark.parametrize(
    ("path", "block", "inside"),
    [
        ("stages.0.blocks.1.attn.qkv", "stages.0.blocks.1", "attn.qkv"),
        ("blocks.2.0.conv_pw", "blocks.2.0", "conv_pw"),
        ("layer1.0.conv1", "layer1.0", "conv1"),
        ("layers.3.blocks.1.mlp.fc1", "layers.3.blocks.1", "mlp.fc1"),
        ("stages.1.downsample.attn_downsample.kv", "stages.1.downsample", "attn_downsample.kv"),
        ("stages.1.1.transformer.0.attn", "stages.1.1", "transformer.0.attn"),
        ("blocks.3.attn.proj", "blocks.3", "attn.proj"),
        ("stem.0.conv", "stem", "0.conv"),
        ("features.denseblock1.denselayer2", "features.denseblock1", "denselayer2"),
        ("features.3.conv.0", "features.3", "conv.0"),
        ("conv_stem", "conv_stem", ""),
        ("head.fc", "head", "fc"),
        ("3.mlp.path.0", "3", "mlp.path.0"),
    ],
)
def test_foreign_paths_are_cut_where_a_block_ends(path: str, block: str, inside: str) -> None:
    assert cut(path) == (block, inside)


@pytest.mark.parametrize(
    ("operator", "sort", "by_itself"),
    [
        (Operator("", "Conv", 1), "convolution", None),
        (Operator("", "QLinearConv", 1), "convolution", None),
        (Operator("", "CONV_2D", 1), "convolution", None),
        (Operator("", "FusedMatMul", 1), "matrix product", None),
        (Operator("", "FullyConnected", 1), "matrix product", None),
        (Operator("", "Fully Connected (NC, F32) GEMM", 1), "matrix product", None),
        (Operator("", "layer_norm", 1), "norm", "norm"),
        (Operator("", "LayerNormalization", 1), "norm", "norm"),
        (Operator("", "RMS", 1), "norm", "norm"),
        (Operator("", "SkipLayerNormalization", 1), "norm", None),  # with the addition before it
        (Operator("", "Gelu", 1), "activation", "activation"),
        (Operator("", "GELU (NC)", 1), "activation", "activation"),
        (Operator("", "relu6", 1), "activation", "activation"),
        (Operator("", "cpp_fused_convolution_gelu_3", 1), "convolution", None),
        (Operator("", "AveragePool", 1), "pooling", None),
        (Operator("", "AVERAGE_POOL_2D", 1), "pooling", None),
        (Operator("", "Softmax", 1), "softmax", None),
        (Operator("", "split_with_sizes", 1), "shape", "shape"),
        (Operator("1.mixer/Mul_5", "Eltwise", 1), "elementwise", None),
        (Operator("1.mlp/Gelu_5", "Eltwise", 1), "activation", "activation"),
        (Operator("1.mlp/Gelu_5", "Subgraph", 1, detail="jit, with 1.mlp/Add_6"), "elementwise", None),
        (Operator("", "Transpose", 1, role="convert"), "conversion", "shape"),
        (Operator("", "Conv", 1, role="fallback"), "fallback", None),
        (Operator("", "Interpolate", 1), "other", None),
    ],
)
def test_the_sort_of_work_follows_from_role_and_kind(
    operator: Operator, sort: str, by_itself: str | None
) -> None:
    assert (sort_of(operator), alone(operator)) == (sort, by_itself)
    assert sort in SORTS


def test_a_broad_kind_is_named_by_its_node() -> None:
    assert kind_of(Operator("1.mlp/Gelu_5", "Eltwise", 1)) == "Gelu"
    assert kind_of(Operator("1.mlp/Gelu_5", "Convolution", 1)) == "Convolution"


@pytest.mark.parametrize(
    ("kind", "detail", "macs"),
    [
        ("Conv", "1×3×8×8, 4×3×3×3, 4 → 1×4×8×8", 4 * 64 * 27),
        ("Conv", "1×4×8×8, 4×1×3×3 → 1×4×8×8", 4 * 64 * 9),
        ("Gemm", "196×128, 256 → 196×256", 196 * 256 * 128),
        ("FusedMatMul", "1×8×32×49, 1×8×32×49 → 1×8×49×49", 8 * 49 * 49 * 32),
        ("MatMul", "1×4×196×196, 1×4×196×32 → 1×4×196×32", 4 * 196 * 32 * 196),
        ("Gelu", "1×4×8×8 → 1×4×8×8", None),
        ("Conv", "brgconv_avx512_f32 acdb, with 0.1/Relu_1", None),
        ("Conv", "", None),
    ],
)
def test_work_is_counted_from_shapes_alone(kind: str, detail: str, macs: int | None) -> None:
    assert macs_of(Operator("", kind, 1, detail=detail)) == macs


def test_an_operator_without_a_module_goes_to_the_block_around_it_only() -> None:
    names = [block for block, _ in place(OPERATORS, WHERE)]
    assert names == ["", *["stem"] * 2, *["stages.0.blocks.0"] * 3, "", *["head"] * 3]


def test_where_blocks_take_turns_nothing_is_given_to_a_neighbour() -> None:
    sources = ("0", "", "0", "1", "0")
    operators = [Operator(str(index), "Add", 1, source) for index, source in enumerate(sources)]
    assert [block for block, _ in place(operators, WHERE)] == [
        "stem",
        "",
        "stem",
        "stages.0.blocks.0",
        "stem",
    ]


def test_times_are_summed_by_block() -> None:
    rows = {one.piece.name or NOWHERE: one for one in made().blocks}
    assert {name: one.ms for name, one in rows.items()} == {
        "stem": 2.5,
        "stages.0.blocks.0": 2.0,
        "head": 4.75,
        NOWHERE: 0.75,
    }
    assert rows["stages.0.blocks.0"].sorts == {"convolution": 1.0, "elementwise": 0.25, "activation": 0.75}
    assert rows["head"].ms_per_mmac == 4.75
    assert rows["head"].operators == 3
    assert rows["stem"].share == 0.25


def test_times_are_summed_by_kind() -> None:
    kinds = {one.kind: one for one in by_kind(made().operators)}
    assert list(kinds)[:2] == ["Gemm", "Conv"]
    assert (kinds["Conv"].operators, kinds["Conv"].ms, kinds["Conv"].share) == (2, 3.0, 0.3)
    assert kinds["Conv"].gflops is None  # the shapes of one of them are not known
    (conv,) = by_kind(made(OPERATORS[3:4]).operators)
    assert conv.gflops == pytest.approx(2 * 8 * 64 * 36 / 1e6)


def test_findings_follow_from_roles_and_kinds() -> None:
    assert [one.text for one in made().findings] == [
        "the longest operators are Gemm in head (4.000 ms, 40.0 %), Conv in stem (2.000 ms, 20.0 %) and Conv "
        "in stages.0.blocks.0 (1.000 ms, 10.0 %)",
        "1 operator did not run where the rest did, 4.000 ms, 40.0 %: 1 Gemm, in head (4.000 ms)",
        "the runtime put in 2 conversions of layout or number type, 0.750 ms, 7.5 %: ReorderInput between "
        "the input and Conv in stem (0.500 ms) and ReorderOutput between Gelu in stages.0.blocks.0 and "
        "Reshape in head (0.250 ms)",
        *(
            f"{kind} is not fused: it runs as 1 operator of its own, {took}; in {block} ({took[:8]})"
            for kind, took, block in (
                ("Gelu", "0.750 ms, 7.5 %", "stages.0.blocks.0"),
                ("Relu", "0.500 ms, 5.0 %", "stem"),
                ("LayerNormalization", "0.500 ms, 5.0 %", "head"),
            )
        ),
        "the network's own reshapes, transposes and splits run as 1 operator (1 Reshape), 0.250 ms, 2.5 %; "
        "in head (0.250 ms)",
        "head (head 8→3 @1×1) takes 4.8 times as long as the network for a multiply-accumulate: 4.750 ms, "
        "47.5 %, with 10.0 % of them",
    ]
    assert [one.ms for one in made().findings] == [7.0, 4.0, 0.75, 0.75, 0.5, 0.5, 0.25, 4.75]


def test_nothing_stands_out_of_nothing() -> None:
    assert findings((), ()) == ()
    kinds = {one.kind for one in made(OPERATORS[1:2]).findings}
    assert kinds == {"longest"}


def test_the_sum_is_held_against_the_unprofiled_whole() -> None:
    taken = made()
    assert (taken.sum_ms, taken.sum_share) == (10.0, 0.8)
    assert taken.overhead == pytest.approx(0.2)
    whole, profiled, total = taken.statements()
    assert "12.500 ms" in whole and "n=42" in whole
    assert "a profiler" in profiled and "+20 %" in profiled and "medians of these 20 runs" in profiled
    assert total == (
        "operators sum to 10.000 ms, 80 % of the unprofiled whole; 20 % is between and around them"
    )
    assert made(whole=receipt(5.0)).statements()[-1].endswith("weighs most on small ones")
    assert "the two hardly compare" in made(whole=receipt(5.0, spread=0.9)).statements()[-1]


def test_the_document_has_every_operator_with_its_block() -> None:
    document = made().to_json()
    assert document["format"] == "efficientformer.profile/1"
    assert document["operators"][3] | {"ms": 0} == {
        "name": "1/Conv_2",
        "kind": "Conv",
        "ms": 0,
        "source": "1.mlp.0",
        "detail": OPERATORS[3].detail,
        "role": "compute",
        "block": "stages.0.blocks.0",
        "inside": "mlp.0",
        "sort": "convolution",
    }
    assert sum(one["ms"] for one in document["blocks"]) == pytest.approx(document["sum_ms"])
    assert Measurement.from_json(document["whole"]).median_ms == 12.5


def test_our_blocks_have_the_architectures_names() -> None:
    network = untrained(tiny())
    where, named = map_of(network, (3, 32, 32)), network.architecture.named_layers()
    assert [piece.name for piece in where.pieces] == [name for name, _ in named]
    assert where.block_of("3.mlp.path.0") == (named[3][0], "mlp.path.0")
    assert where.block_of("99.mlp") == ("", "99.mlp")
    assert sum(piece.macs or 0 for piece in where.pieces) == tiny().macs


def test_a_foreign_networks_blocks_carry_its_macs() -> None:
    network, image = peer("timm/mobilenetv2_050", input_size=64)
    pieces = {piece.name: piece for piece in map_of(network, image).pieces}
    assert pieces["blocks.1.0"].kind == "InvertedResidual"
    assert pieces["classifier"].macs == 1280 * 1000
    assert "8×32×32 → 16×16×16" in pieces["blocks.1.0"].text
    assert pieces["conv_stem+bn1"].macs == 16 * 32 * 32 * 27
    assert map_of(network, image).block_of("bn1") == ("conv_stem+bn1", "")
    assert sum(piece.macs or 0 for piece in pieces.values()) == count_macs(network, image)


@pytest.fixture
def small(tmp_path: Path) -> Subject:
    write_json(tmp_path / "small.json", SMALL.to_json())
    return subject(str(tmp_path / "small.json"))


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=[] if name == "onnxruntime" else pytest.mark.slow) for name in RUNTIMES],
)
def test_a_real_profile_adds_up(runtime: str, small: Subject, tmp_path: Path) -> None:
    if trouble := RUNTIMES[runtime].trouble():
        pytest.skip(trouble)
    steps: list[int] = []
    taken = profile(small, Target(runtime), cache=tmp_path, told=lambda done, *_: steps.append(done), **QUICK)
    names = [name for name, _ in SMALL.named_layers()]
    assert [one.piece.name for one in taken.blocks if one.piece.name] == names
    assert 0.5 * min(taken.whole.samples_ms) < taken.sum_ms
    slowest = max(taken.whole.p90_ms, taken.profiled.median_ms if taken.profiled else 0.0)
    assert taken.sum_ms < 1.5 * slowest
    assert math.isclose(sum(one.share for one in taken.blocks), 1)
    if taken.why_alone:
        assert all(one.receipt for one in taken.blocks)
    else:
        assert all(one.operators for one in taken.blocks)
        assert steps == [1, 2, 3, 4]


@pytest.fixture
def _no_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> Trace:
        raise NoProfilerError(f"{path}: the wheel has none")

    monkeypatch.setattr(running, "_traced", refuse)


@pytest.mark.usefixtures("_no_profiler")
def test_without_a_profiler_each_of_our_blocks_is_timed_alone_and_it_is_said(tmp_path: Path) -> None:
    write_json(tmp_path / "tiny.json", tiny().to_json())
    taken = profile(subject(str(tmp_path / "tiny.json")), Target(), cache=tmp_path, **QUICK)
    assert taken.operators == () and taken.profiled is None and taken.overhead is None
    assert taken.why_alone == "the wheel has none"
    assert [one.piece.name for one in taken.blocks] == [name for name, _ in tiny().named_layers()]
    assert all(one.receipt and len(one.receipt.samples_ms) >= 24 for one in taken.blocks)
    assert any("each block timed alone: the wheel has none" in one for one in taken.statements())
    assert any(one.startswith("blocks sum to") for one in taken.statements())


@pytest.mark.usefixtures("_no_profiler")
def test_without_a_profiler_a_foreign_network_is_refused(tmp_path: Path) -> None:
    given = subject("timm/mobilenetv2_035", input_size=32)
    with pytest.raises(InputError, match=r"mobilenetv2_035: the wheel has none; ") as raised:
        profile(given, Target(), cache=tmp_path, **QUICK)
    others = [name for name, one in RUNTIMES.items() if name != "onnxruntime" and one.trouble() is None]
    assert all(name in str(raised.value) for name in others)


@pytest.mark.slow
def test_blocks_alone_are_timed_in_the_targets_precision() -> None:
    network, target = untrained(tiny()), Target(precision="int8")
    blocks, call_ms = blocks_alone(network, target, map_of(network, (3, 32, 32)))
    assert call_ms > 0
    assert {one.receipt.target for one in blocks if one.receipt} == {str(target)}
