from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES, Settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnxruntime", Target("onnxruntime", "cpu", 1, "fp32")),
        ("onnxruntime:cpu", Target("onnxruntime", "cpu", 1, "fp32")),
        ("onnxruntime:threads=4", Target("onnxruntime", "cpu", 4, "fp32")),
        ("onnxruntime:cpu:threads=02", Target("onnxruntime", "cpu", 2, "fp32")),
        ("onnxruntime:precision=fp32:threads=2", Target("onnxruntime", "cpu", 2, "fp32")),
        ("onnxruntime:cpu:threads=2:precision=fp32", Target("onnxruntime", "cpu", 2, "fp32")),
    ],
)
def test_what_is_read(text: str, expected: Target) -> None:
    assert Target.parse(text) == expected


def test_the_default_is_what_a_bare_runtime_means() -> None:
    assert Target() == Target.parse("onnxruntime")


@given(st.integers(1, 512))
def test_what_is_printed_can_be_read(threads: int) -> None:
    target = Target(threads=threads)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown runtime ''; known: onnxruntime"),
        ("abacus", "unknown runtime 'abacus'; known: onnxruntime"),
        ("ONNXRuntime", "unknown runtime 'ONNXRuntime'"),
        ("abacus:cpu:threads=2", "unknown runtime 'abacus'"),
        ("onnxruntime:npu", "onnxruntime knows device cpu, cuda only"),
        ("onnxruntime:", "onnxruntime knows device cpu, cuda only"),
        ("onnxruntime:cpu:precision=fp16", "onnxruntime knows precision fp32, int8 only"),
        ("onnxruntime:cpu:precision=", "onnxruntime knows precision fp32, int8 only"),
        ("onnxruntime:cpu:cores=2", "unknown option 'cores=2'; known: threads=N, precision=P"),
        ("onnxruntime:threads=2:cpu", "unknown option 'cpu'"),
        ("onnxruntime:cpu:", "unknown option ''"),
        ("onnxruntime:cpu:threads", "whole number from 1, not ''"),
        ("onnxruntime:cpu:threads=", "whole number from 1, not ''"),
        ("onnxruntime:cpu:threads=0", "whole number from 1, not '0'"),
        ("onnxruntime:cpu:threads=-1", "whole number from 1, not '-1'"),
        ("onnxruntime:cpu:threads=1.5", "whole number from 1, not '1.5'"),
        ("onnxruntime:cpu:threads=all", "whole number from 1, not 'all'"),
        ("onnxruntime:cpu:threads=2=3", "whole number from 1, not '2=3'"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Target.parse(text)
    assert f"target {text!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_superscript_is_no_number_of_threads() -> None:
    with pytest.raises(InputError):
        Target.parse("onnxruntime:cpu:threads=²")


@pytest.mark.parametrize(
    ("target", "short"),
    [
        (Target(), "onnxruntime"),
        (Target(threads=4), "onnxruntime:threads=4"),
        (Target(device="cuda"), "onnxruntime:cuda"),
        (Target(device="cuda", threads=2, precision="int8"), "onnxruntime:cuda:threads=2:precision=int8"),
    ],
)
def test_in_short_what_is_usual_is_left_out(target: Target, short: str) -> None:
    assert target.short == short
    assert Target.parse(short) == target


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_can_be_named(name: str) -> None:
    runtime = RUNTIMES[name]
    assert runtime.name == name
    for device in runtime.devices:
        for precision in runtime.precisions:
            target = Target(name, device, 2, precision)
            assert Target.parse(str(target)) == target
            assert Target.parse(target.short) == target
            assert target.settings == Settings(device, 2, precision)


def test_the_same_in_another_precision() -> None:
    target = Target("openvino", threads=2)
    assert target.under("bf16") == Target("openvino", threads=2, precision="bf16")
    assert target.under("fp32") == target
    with pytest.raises(
        InputError, match="'openvino:threads=2:precision=int4': openvino knows precision fp32"
    ):
        target.under("int4")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target(), "model.onnx"),
        (Target(precision="int8"), "model.int8.onnx"),
        (Target("openvino", precision="bf16"), "model.bf16.xml"),
        (Target("torch-compiled"), "model.aoti.pt2"),
    ],
)
def test_files_are_called_after_their_precision(target: Target, name: str) -> None:
    assert target.file_name("model") == name


def test_targets_are_values() -> None:
    assert len({Target(), Target(), Target(threads=2)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Target().threads = 3
