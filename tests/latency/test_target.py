from __future__ import annotations

import dataclasses
import os

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efficientformer import InputError
from efficientformer.latency.target import Target, fingerprint


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
        ("tflite", "unknown runtime 'tflite'; known: onnxruntime"),
        ("ONNXRuntime", "unknown runtime 'ONNXRuntime'"),
        ("tflite:cpu:threads=2", "unknown runtime 'tflite'"),
        ("onnxruntime:cuda", "onnxruntime runs here on device cpu only"),
        ("onnxruntime:", "onnxruntime runs here on device cpu only"),
        ("onnxruntime:cpu:precision=int8", "onnxruntime runs here on precision fp32 only"),
        ("onnxruntime:cpu:precision=", "onnxruntime runs here on precision fp32 only"),
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


def test_a_fingerprint_names_what_must_be_the_same() -> None:
    facts = fingerprint(Target())
    assert set(facts) == {"processor", "cores", "system", "runtime", "exporter"}
    assert facts["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert facts["exporter"] == f"torch {torch.__version__}"
    assert facts["cores"] == str(os.cpu_count())
    assert all(facts.values())


def test_a_fingerprint_is_of_the_machine_not_of_the_options() -> None:
    assert fingerprint(Target(threads=1)) == fingerprint(Target(threads=2))


def test_another_runtime_version_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(Target())
    monkeypatch.setattr(onnxruntime, "__version__", "0.0.1")
    after = fingerprint(Target())
    assert {key for key in before if before[key] != after[key]} == {"runtime"}


def test_targets_are_values() -> None:
    assert len({Target(), Target(), Target(threads=2)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Target().threads = 3
