"""Every preset in every form: trained, evaluated, folded, packed, exported and compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as shapes
from torch import Tensor, nn

from efficientformer import InputError, fold, pack
from tests.contract.models import (
    DTYPES,
    NAMES,
    RECTANGLE,
    ROUNDING,
    SMALL,
    Size,
    difference,
    each_batch,
    each_dtype,
    each_name,
    each_size,
    folded,
    gradients,
    images,
    label,
    network,
    output,
    own,
    share,
)

F32, BF16 = DTYPES
EXPORTED = [(name, *case) for name in NAMES for case in ((F32, (64, 128)), (BF16, (96, 64)))]
COMPILED = [(name, F32, (96, 64)) for name in NAMES]
COMPILED += [(name, BF16, SMALL) for name in ("efficientformer_l1", "efficientformerv2_s0")]


def traced(cases: list[tuple[str, torch.dtype, Size]]) -> pytest.MarkDecorator:
    """Tracing takes seconds, and sizes and number types make no difference to it: two of each, not all."""
    return pytest.mark.parametrize(("name", "dtype", "size"), cases, ids=label)


@each_batch
@each_size
@each_dtype
@each_name
def test_evaluated(name: str, dtype: torch.dtype, size: Size, batch: int) -> None:
    logits = output(name, dtype, size, batch)
    assert logits.shape == (batch, 1000)
    assert logits.dtype == dtype
    assert torch.isfinite(logits).all()
    assert difference(logits, output(name, torch.float32, size, batch)) <= ROUNDING[dtype]


@each_size
@each_dtype
@each_name
def test_an_images_logits_are_its_own(name: str, dtype: torch.dtype, size: Size) -> None:
    several, one = output(name, dtype, size, 3), output(name, dtype, size, 1)
    assert difference(several[:1], one) <= ROUNDING[dtype]
    assert all(difference(several[:1], several[index, None]) > 3 * ROUNDING[dtype] for index in (1, 2))


@each_batch
@each_size
@each_dtype
@each_name
@torch.no_grad()
def test_folded(name: str, dtype: torch.dtype, size: Size, batch: int) -> None:
    logits = folded(name, dtype, size)(images(size, batch, dtype))
    assert logits.shape == (batch, 1000)
    assert logits.dtype == dtype
    assert torch.isfinite(logits).all()
    assert difference(logits, output(name, torch.float32, size, batch)) <= ROUNDING[dtype]


@lru_cache(maxsize=1)
def packed(name: str, size: Size) -> nn.Module:
    """The form for eager PyTorch, of float32 only."""
    return pack(network(name, size=size))


@each_batch
@pytest.mark.parametrize("size", [SMALL, (96, 64)], ids=label)
@each_name
@torch.no_grad()
def test_packed(name: str, size: Size, batch: int) -> None:
    pictures = images(size, batch)
    logits = packed(name, size)(pictures)
    assert difference(logits, output(name, size=size, batch=batch)) <= ROUNDING[torch.float32]
    assert torch.equal(pictures, images(size, batch))  # it works in place, but not on what it is given


@each_name
def test_packing_another_number_type_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be float32 on the CPU"):
        pack(network(name, torch.bfloat16))


@lru_cache(maxsize=1)
@torch.no_grad()
def exported(name: str, dtype: torch.dtype, size: Size) -> nn.Module:
    """An exported program for batches of 1 to 8."""
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    inputs = (images(size, 2, dtype),)
    program = torch.export.export(network(name, dtype, size), inputs, dynamic_shapes=(batch,), strict=False)
    return program.module()


@each_batch
@traced(EXPORTED)
@torch.no_grad()
def test_exported(name: str, dtype: torch.dtype, size: Size, batch: int) -> None:
    logits = exported(name, dtype, size)(images(size, batch, dtype))
    assert logits.dtype == dtype
    assert difference(logits, output(name, dtype, size, batch)) <= ROUNDING[dtype]


@lru_cache(maxsize=1)
@torch.no_grad()
def compiled(name: str, dtype: torch.dtype, size: Size) -> Callable[[Tensor], Tensor]:
    """One graph of the whole, traced for any batch by one of 2."""
    torch._dynamo.reset()
    graph = torch.compile(network(name, dtype, size), fullgraph=True, backend="eager")
    traced_by = images(size, 2, dtype)
    torch._dynamo.mark_dynamic(traced_by, 0)
    with shapes.patch(backed_size_oblivious=True):  # a batch of 1 is no special case
        graph(traced_by)
    return graph


@each_batch
@traced(COMPILED)
@torch.no_grad()
def test_compiled(name: str, dtype: torch.dtype, size: Size, batch: int) -> None:
    graph = compiled(name, dtype, size)
    with torch._dynamo.config.patch(error_on_recompile=True):
        logits = graph(images(size, batch, dtype))
    assert logits.dtype == dtype
    assert difference(logits, output(name, dtype, size, batch)) <= ROUNDING[dtype]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # inductor's own import
@pytest.mark.parametrize("form", [own, fold])
@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s0"])
@torch.no_grad()
def test_compiled_to_machine_code(name: str, form: Callable[[Any], nn.Module]) -> None:
    torch._dynamo.reset()
    machine_code = torch.compile(form(network(name)), fullgraph=True)
    assert difference(machine_code(images()), output(name)) <= ROUNDING[torch.float32]


@pytest.mark.parametrize(
    ("size", "batch", "distilled"),
    [
        ((32, 32), 3, True),  # a batch of 1 leaves batch norm one number a channel, which torch refuses
        (SMALL, 1, True),
        (SMALL, 3, True),
        (SMALL, 3, False),
        ((96, 64), 1, True),
        (RECTANGLE, 3, True),
    ],
    ids=label,
)
@each_dtype
@each_name
def test_trained(name: str, dtype: torch.dtype, size: Size, batch: int, distilled: bool) -> None:
    model = share(network(name, dtype, size)).train()
    model.set_distilled_training(distilled)
    norms = {key: m for key, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {key: [b.clone() for b in m.buffers()] for key, m in norms.items()}
    outputs = model(images(size, batch, dtype))
    pair = outputs if distilled else (outputs,)
    assert [(one.shape, one.dtype) for one in pair] == [((batch, 1000), dtype)] * (1 + distilled)
    given = gradients(sum(one.float().square().mean() for one in pair), model)
    assert [key for key, grad in given.items() if grad is None or not grad.isfinite().all()] == []
    assert {grad.dtype for grad in given.values() if grad is not None} == {dtype}
    still = [
        key
        for key, module in norms.items()
        if any(torch.equal(*pair) for pair in zip(module.buffers(), before[key], strict=True))
    ]
    assert norms
    assert still == []
