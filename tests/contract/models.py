"""What the contract's tests share: every preset on small images, with weights that hide no mistake.

Networks are cached and shared, the sizes of one preset even share their weights: tests leave them as they
are, and change only what `share` or `own` gives them (large copies are what takes time here). The weights are
numbers that bfloat16 can hold, so that both number types compute the same network.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TypeVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientformer import EfficientFormer, create_model, fold, list_models
from tests.strategies import randomise

Size = tuple[int, int]
Module = TypeVar("Module", bound=nn.Module)

NAMES = list_models()
V1, V2 = list_models("efficientformer_*"), list_models("efficientformerv2_*")
SMALL: Size = (64, 64)
RECTANGLE: Size = (32, 64)
SIZES: tuple[Size, ...] = ((32, 32), SMALL, (96, 64), (64, 128))
DTYPES = (torch.float32, torch.bfloat16)

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.1}
"""The largest difference over the largest logit that rounding may make.

Measured over all presets, sizes and batches here: 4e-6 in float32 (folding); from float32 to bfloat16 0.046,
to bfloat16 folded 0.063. A network that is wrong in bfloat16 only is off by about 1, as two images are.
"""


def label(value: object) -> str | None:
    """The id of a size or a number type; pytest's own for anything else."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return "x".join(map(str, value))
    return None


each_name = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=label)
each_size = pytest.mark.parametrize("size", SIZES, ids=label)
each_batch = pytest.mark.parametrize("batch", [1, 3])


def images(
    size: Size = SMALL, batch: int = 3, dtype: torch.dtype = torch.float32, channels: int = 3
) -> Tensor:
    """Seeded pictures: large blots under noise. A smaller batch is the beginning of a larger one."""
    pictures = []
    for index in range(batch):
        generator = torch.Generator().manual_seed(index)
        blots = F.interpolate(torch.randn(1, channels, 4, 4, generator=generator), size=size, mode="bilinear")
        pictures.append(2 * blots + 0.5 * torch.randn(1, channels, *size, generator=generator))
    return torch.cat(pictures).to(dtype)


@torch.no_grad()
def enliven(model: EfficientFormer) -> None:
    """Draw weights with which every part and every image shows in the logits.

    Drawn by `randomise` alone, the constants drown the images: the logits of two differ by 0.1 to 1 %, and
    attention biases by less. So biases are made smaller, attention biases larger, and the norms' statistics
    become those of images, as in a trained network; two images' logits then differ by about their size.
    """
    randomise(model)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.mul_(0.2)
        elif name.endswith("attention_biases"):
            parameter.mul_(4)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(images(model.architecture.input_size, 8, channels=model.architecture.in_channels))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()  # unused, and not among what `load_checkpoint` takes


@lru_cache(maxsize=2)
def _drawn(name: str, dtype: torch.dtype) -> EfficientFormer:
    if dtype != torch.float32:
        return own(_drawn(name, torch.float32)).to(dtype)
    for cache in (network, folded, output):
        cache.cache_clear()  # tests come one preset after another
    model = create_model(name, input_size=96)
    enliven(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.bfloat16().float()
    return model


@lru_cache(maxsize=16)
def network(name: str, dtype: torch.dtype = torch.float32, size: Size = SMALL) -> EfficientFormer:
    """A preset in evaluation mode, to be left as it is."""
    model = share(_drawn(name, dtype))
    model.set_input_size(size)
    return model


@lru_cache(maxsize=2)
def folded(name: str, dtype: torch.dtype, size: Size) -> nn.Sequential:
    """Its deployed form, to be left as it is."""
    return fold(network(name, dtype, size))


@lru_cache(maxsize=64)
@torch.no_grad()
def output(name: str, dtype: torch.dtype = torch.float32, size: Size = SMALL, batch: int = 3) -> Tensor:
    """Its logits for `images`, to be left as they are."""
    return cast(Tensor, network(name, dtype, size)(images(size, batch, dtype)))


def share(module: Module) -> Module:
    """A copy with buffers of its own but the same parameters, which a test may replace, not write to."""
    copied = copy.copy(module)
    for key, value in vars(module).items():
        if isinstance(value, dict):
            vars(copied)[key] = value.copy()
    vars(copied)["_buffers"] = {key: None if b is None else b.clone() for key, b in module._buffers.items()}
    children = module._modules.items()
    vars(copied)["_modules"] = {key: None if child is None else share(child) for key, child in children}
    return copied


def own(module: Module) -> Module:
    """A copy that a test may change in any way."""
    return copy.deepcopy(module)


@torch.no_grad()
def blank(model: Module) -> Module:
    """A copy whose every number is zero, to load others into."""
    emptied = own(model)
    for tensor in (*emptied.parameters(), *emptied.buffers()):
        if tensor.is_floating_point():
            tensor.zero_()
    return emptied


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor | None]:
    """By the names of its parameters, which are left as they are; None for those that are not used."""
    named = dict(module.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, [*named.values()], allow_unused=True), strict=True))


def difference(given: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value, in double precision."""
    assert given.shape == wanted.shape
    return float((given.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether both hold the same entries of the same number types, bit for bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(
        mine[key].dtype == theirs[key].dtype and torch.equal(mine[key], theirs[key]) for key in mine
    )
