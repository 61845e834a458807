"""Every preset's weights and buffers through casts, copies and files; its training's options."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay
from torch import nn

from efficientformer import (
    EfficientFormer,
    FeatureExtractor,
    InputError,
    create_model,
    fold,
    load_model,
    save_model,
)
from tests.contract.models import (
    RECTANGLE,
    ROUNDING,
    SMALL,
    Size,
    blank,
    difference,
    each_dtype,
    each_name,
    gradients,
    images,
    label,
    network,
    output,
    own,
    same_state,
    share,
)

CASTS = {torch.bfloat16: ROUNDING[torch.bfloat16], torch.float16: 0.02, torch.float64: 1e-5}
WHOLE = ("network", "folded")
FORMS = {
    "network": lambda model: model,
    "features": lambda model: FeatureExtractor(share(model)),
    "folded": fold,
}
each_whole = pytest.mark.parametrize("form", WHOLE)
each_form = pytest.mark.parametrize("form", FORMS)


def last(outputs: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """Logits, or the last map."""
    return outputs[-1] if isinstance(outputs, list) else outputs


def buffers(module: nn.Module) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Number type and shape of every buffer, whether it is saved or not."""
    return {key: (buffer.dtype, buffer.shape) for key, buffer in module.named_buffers()}


# Number types


@pytest.mark.parametrize(
    ("form", "dtype"),
    [*(("network", dtype) for dtype in CASTS), ("folded", torch.bfloat16), ("folded", torch.float16)],
    ids=label,
)
@each_name
@torch.no_grad()
def test_everything_follows_a_cast(name: str, form: str, dtype: torch.dtype) -> None:
    source = network(name, size=RECTANGLE)
    model = own(source) if form == "network" else FORMS[form](source)
    wanted, before = last(model(images(RECTANGLE))), buffers(model)
    model = {torch.bfloat16: model.bfloat16, torch.float16: model.half, torch.float64: model.double}[dtype]()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert buffers(model) == {
        key: (dtype if old.is_floating_point else old, shape) for key, (old, shape) in before.items()
    }
    given = last(model(images(RECTANGLE, dtype=dtype)))
    assert given.dtype == dtype
    assert difference(given, wanted) <= CASTS[dtype]


@each_name
@torch.no_grad()
def test_double_precision_agrees_on_folding_to_its_rounding(name: str) -> None:
    model = own(network(name, size=RECTANGLE)).double()
    pictures = images(RECTANGLE, dtype=torch.float64)
    assert difference(fold(model)(pictures), model(pictures)) <= 1e-13


@each_form
@each_name
@torch.no_grad()
def test_mixed_precision(name: str, form: str) -> None:
    model = FORMS[form](network(name))
    with torch.autocast("cpu", torch.bfloat16):
        given = last(model(images()))
    assert difference(given, last(model(images()))) <= ROUNDING[torch.bfloat16]


@each_form
@pytest.mark.parametrize("size", [RECTANGLE, SMALL], ids=label)
@each_name
@torch.no_grad()
def test_memory_formats_do_not_matter(name: str, size: Size, form: str) -> None:
    model = FORMS[form](network(name, size=size))
    wanted = last(model(images(size)))
    apart = (own(model) if form != "folded" else model).to(memory_format=torch.channels_last)
    given = last(apart(images(size).to(memory_format=torch.channels_last)))
    assert difference(given, wanted) <= 3 * ROUNDING[torch.float32]


# Copies


@each_whole
@each_name
@torch.no_grad()
def test_a_copy_is_equal_and_apart(name: str, form: str) -> None:
    dtype = torch.float32
    model, pictures = FORMS[form](network(name, dtype, RECTANGLE)), images(RECTANGLE, 1, dtype)
    wanted = last(model(pictures))
    copied = copy.deepcopy(model)
    assert same_state(copied, model)
    assert buffers(copied) == buffers(model)
    assert torch.equal(last(copied(pictures)), wanted)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.zero_()
    assert not torch.equal(last(copied(pictures)), wanted)
    assert torch.equal(last(model(pictures)), wanted)


@each_form
@each_name
@torch.no_grad()
def test_a_pickle_is_equal(name: str, form: str) -> None:
    dtype = torch.bfloat16
    model = FORMS[form](network(name, dtype, RECTANGLE))
    loaded = pickle.loads(pickle.dumps(model))
    pictures = images(RECTANGLE, 1, dtype)
    assert torch.equal(last(loaded(pictures)), last(model(pictures)))


@each_form
@each_name
@torch.no_grad()
def test_a_state_dict_is_all_there_is(name: str, form: str) -> None:
    dtype = torch.bfloat16
    model = FORMS[form](network(name, dtype, RECTANGLE))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = blank(model)
    loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
    pictures = images(RECTANGLE, 1, dtype)
    assert torch.equal(last(loaded(pictures)), last(model(pictures)))
    assert not [key for key in model.state_dict() if key.endswith("attention_bias_idxs")]


@each_dtype
@each_name
@torch.no_grad()
def test_a_saved_model_comes_back(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    size = RECTANGLE
    model, path = network(name, dtype, size), tmp_path / "model.safetensors"
    save_model(path, model)
    loaded = load_model(path)
    assert not loaded.training
    assert loaded.architecture == model.architecture
    assert same_state(loaded.to(dtype), model)
    assert torch.equal(loaded(images(size, 1, dtype)), model(images(size, 1, dtype)))


@each_form
@each_name
def test_training_and_evaluation_reach_every_part(name: str, form: str) -> None:
    model = share(FORMS[form](network(name)))
    for training in (True, False):
        assert {module.training for module in model.train(training).modules()} == {training}


@each_name
@torch.no_grad()
def test_inference_mode_changes_nothing(name: str) -> None:
    with torch.inference_mode():
        given = network(name)(images())
    assert torch.equal(given.clone(), output(name))


# Options of training


def step(model: EfficientFormer, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step, the dropping of paths seeded."""
    torch.manual_seed(1)
    outputs = model.train()(images(RECTANGLE, dtype=dtype))
    pair = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = torch.stack([one.float().square().mean() for one in pair]).sum()
    given = gradients(loss, model)
    return loss.item(), {key: gradient for key, gradient in given.items() if gradient is not None}


@each_dtype
@each_name
def test_checkpointed_activations_give_the_same_gradients(name: str, dtype: torch.dtype) -> None:
    models = share(network(name, dtype, RECTANGLE)), share(network(name, dtype, RECTANGLE))
    models[0].set_grad_checkpointing()
    for model in models:
        model.set_distilled_training()
    (loss, given), (wanted_loss, wanted) = (step(model, dtype) for model in models)
    assert loss == wanted_loss
    assert list(given) == list(wanted) == [key for key, _ in models[0].named_parameters()]
    assert all(torch.equal(given[key], wanted[key]) for key in wanted)
    assert same_state(*models)  # the norms' statistics have moved once
    assert not same_state(models[0], network(name, dtype, RECTANGLE))


@each_name
def test_checkpointing_keeps_fewer_activations_and_can_be_undone(name: str) -> None:
    def kept() -> int:
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += 0 if isinstance(tensor, nn.Parameter) else tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images())
        return total

    model = share(network(name)).train()
    plain = kept()
    model.set_grad_checkpointing()
    assert kept() < plain / 2
    model.set_grad_checkpointing(False)
    assert kept() == plain


def dropping(name: str, rate: float) -> EfficientFormer:
    """The network with the dropping of one that was built so."""
    with torch.device("meta"):
        built = EfficientFormer(network(name).architecture, drop_path_rate=rate)
    model = share(network(name, size=RECTANGLE))
    for stage, rates in zip(model.stages, built.stages, strict=True):
        for key, block in stage.blocks.items():
            block.drop_path = rates.blocks[key].drop_path
    return model.eval()


@pytest.mark.parametrize("rate", [0.1, 0.9])
@each_name
def test_dropped_paths(name: str, rate: float) -> None:
    model = dropping(name, rate)
    pictures = images(RECTANGLE)
    with torch.no_grad():
        assert torch.equal(model(pictures), output(name, size=RECTANGLE))  # evaluation drops nothing
        wanted = share(network(name, size=RECTANGLE)).train()(pictures)
        torch.manual_seed(0)
        draws = [model.train()(pictures) for _ in range(2)]
    assert all(torch.isfinite(one).all() for one in draws)
    assert any(not torch.equal(one, wanted) for one in draws)
    if rate == 0.9:
        assert not torch.equal(draws[0], draws[1])
    _, given = step(model, torch.float32)
    assert len(given) == len(list(model.parameters()))
    assert all(torch.isfinite(one).all() for one in given.values())


@each_name
def test_dropped_paths_rise_to_the_last_block(name: str) -> None:
    from timm.layers import DropPath

    with torch.device("meta"):
        model = create_model(name, drop_path_rate=0.3)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    blocks = sum(len(stage.blocks) for stage in model.stages)
    assert rates == pytest.approx([0.3 * index / (blocks - 1) for index in range(1, blocks)])


@pytest.mark.parametrize("rate", [1.0, -0.1, 2])
@each_name
def test_no_such_rate_of_dropping(name: str, rate: float) -> None:
    with torch.device("meta"), pytest.raises(InputError, match="drop_path_rate"):
        create_model(name, drop_path_rate=rate)


# Groups of parameters


@each_name
def test_attention_biases_are_not_decayed(name: str) -> None:
    model = network(name)
    exempt = model.no_weight_decay()
    assert exempt
    assert exempt == {key for key, _ in model.named_parameters() if "attention_biases" in key}
    none, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=exempt)
    assert (none["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    inside = {id(parameter) for parameter in decayed["params"]}
    for key, parameter in model.named_parameters():
        assert (id(parameter) in inside) is (parameter.ndim > 1 and key not in exempt), key


@pytest.mark.parametrize("coarse", [False, True])
@each_name
def test_every_parameter_is_of_one_group(name: str, coarse: bool) -> None:
    model = network(name)
    groups = group_parameters(model, model.group_matcher(coarse))
    assert sorted(key for group in groups.values() for key in group) == sorted(
        key for key, _ in model.named_parameters()
    )
    stages = sum(len(stage.blocks) + (stage.embed is not None) for stage in model.stages)
    assert len(groups) >= (5 if coarse else 1 + stages)
    order = {key: number for number, group in sorted(groups.items()) for key in group}
    assert order["stem.conv1.weight"] < order["stages.0.blocks.0.ls2.gamma"]
    assert order["stages.1.embed.conv.weight"] <= order["stages.1.blocks.0.ls2.gamma"]
    assert order["stages.1.blocks.1.ls2.gamma"] < order["stages.2.embed.conv.weight"]
    assert max(order, key=lambda key: order[key]).startswith("head.")
