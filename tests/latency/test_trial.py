"""Whether a target can be used here, found out before any work."""

from __future__ import annotations

import pytest

from efficientformer import InputError
from efficientformer.latency.target import Target
from efficientformer.latency.trial import check_usable
from efficientformer.runtimes.openvino import model


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime:precision=int8", "openvino:precision=int8"])
def test_what_works_here_is_let_through(target: str) -> None:
    check_usable(Target.parse(target))


def test_what_the_processor_lacks_is_one_line() -> None:
    """PyTorch takes no float16 on any CPU."""
    with pytest.raises(
        InputError, match=r"^torch:precision=fp16 cannot be used here: .* takes no fp16 on cpu"
    ) as told:
        check_usable(Target.parse("torch:precision=fp16"))
    assert "/tmp" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_package_that_quantises_may_be_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "installed", lambda _: None)
    with pytest.raises(
        InputError, match=r"^openvino:precision=int8 cannot be used here: nncf is not installed"
    ):
        check_usable(Target.parse("openvino:precision=int8"))
    check_usable(Target.parse("openvino:precision=fp32"))
