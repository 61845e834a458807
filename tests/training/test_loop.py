from __future__ import annotations

import copy
import dataclasses
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efficientformer import EfficientFormer, InputError
from efficientformer.data.augmentation import Augmentation
from efficientformer.data.images import Images
from efficientformer.evaluation.score import evaluate
from efficientformer.progress import Progress
from efficientformer.training import checkpoint, learner, loop
from efficientformer.training.batches import held_batches
from efficientformer.training.learner import Learner, Part
from efficientformer.training.recipe import Recipe
from efficientformer.training.stopping import Stopped
from tests.strategies import randomised, tiny

SIDE = 32
RECIPE = Recipe(
    epochs=2, input_size=SIDE, batch_size=4, learning_rate=1e-2, warmup_epochs=0.2
)  # of 12 images: 6 steps


def coloured(count: int = 12, classes: int = 3, seed: int = 0) -> Images:
    """Noise, brighter in the channel of its class: learnable at a glance."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 160, (count, 37, 37, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    pixels[torch.arange(count), :, :, labels] += 90
    return Images(pixels, labels, ())


def fresh() -> EfficientFormer:
    """The same network each time, as the start of a training."""
    return randomised(tiny())


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: nn.Module, second: nn.Module) -> bool:
    mine, theirs = weights(first), weights(second)
    return all(torch.equal(mine[name], theirs[name]) for name in theirs)


def train(
    model: nn.Module, images: Images, recipe: Recipe, state: Path, title: str = "t", **options: Any
) -> Learner:
    """The loop, on images that are held in memory."""
    classes = options.pop("classes", 3)
    return loop.train(
        model, held_batches(images, recipe), recipe, state, classes=classes, title=title, **options
    )


class StopError(Exception):
    """Stands for a kill."""


def stop_at(step: int) -> Callable[[int, float], None]:
    def prepare(current: int, _: float) -> None:
        if current == step:
            raise StopError

    return prepare


# Resuming


@pytest.fixture
def saving_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0)
    monkeypatch.setattr(checkpoint, "SAVING_SHARE", math.inf)


@pytest.mark.usefixtures("saving_each_step")
@pytest.mark.parametrize("stops", [(1,), (4,), (5,), (2, 3)])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_training_resumes_bit_for_bit(
    stops: tuple[int, ...], precision: Any, tmp_path: Path
) -> None:
    recipe, images = dataclasses.replace(RECIPE, precision=precision), coloured()
    whole, parted = fresh(), fresh()
    train(whole, images, recipe, tmp_path / "whole.safetensors", title="t")
    for step in stops:
        with pytest.raises(StopError):
            train(parted, images, recipe, tmp_path / "parted.safetensors", prepare=stop_at(step))
        parted = fresh()  # a new process knows the file alone
    train(parted, images, recipe, tmp_path / "parted.safetensors", title="t")
    assert same(parted, whole)
    assert not same(whole, fresh())


@pytest.mark.usefixtures("saving_each_step")
def test_only_the_steps_that_are_left_are_made(tmp_path: Path) -> None:
    steps: list[tuple[int, float]] = []

    def prepare(step: int, share: float) -> None:
        steps.append((step, share))
        if steps.count((3, 0.5)) == 1 and step == 3:
            raise StopError

    with pytest.raises(StopError):
        train(fresh(), coloured(), RECIPE, tmp_path / "state.safetensors", title="t", prepare=prepare)
    train(fresh(), coloured(), RECIPE, tmp_path / "state.safetensors", title="t", prepare=prepare)
    assert steps == [(step, step / 6) for step in (0, 1, 2, 3, 3, 4, 5)]


def test_an_epoch_that_was_not_told_of_is_told_after_a_resume(tmp_path: Path) -> None:
    """The state is saved before the epoch is told of, so that a stop in a long evaluation loses nothing."""
    told: list[int] = []

    def stopped_while_told(epoch: int, _learner: Learner, _asked: Callable[[], int]) -> None:
        told.append(epoch)
        if told == [1]:
            raise StopError

    whole, parted = fresh(), fresh()
    train(whole, coloured(), RECIPE, tmp_path / "whole.safetensors")
    with pytest.raises(StopError):
        train(parted, coloured(), RECIPE, tmp_path / "state.safetensors", after_epoch=stopped_while_told)
    steps: list[int] = []
    parted = fresh()
    train(
        parted,
        coloured(),
        RECIPE,
        tmp_path / "state.safetensors",
        after_epoch=stopped_while_told,
        prepare=lambda step, _: steps.append(step),
    )
    assert told == [1, 1, 2]
    assert steps == [3, 4, 5]
    assert same(parted, whole)


def test_a_request_to_stop_while_an_epoch_is_told_of(tmp_path: Path) -> None:
    asked: list[int] = []

    def told(epoch: int, _learner: Learner, came: Callable[[], int]) -> None:
        signal.raise_signal(signal.SIGTERM)
        asked.append(came())

    with pytest.raises(Stopped) as stop:
        train(fresh(), coloured(), RECIPE, tmp_path / "state.safetensors", after_epoch=told)
    assert stop.value.terminated
    assert asked == [signal.SIGTERM]


def test_a_training_that_only_overflows_is_ended(tmp_path: Path) -> None:
    """In fp16 a step that overflows is left out, and the next is tried at half the scale: not for ever."""
    recipe = dataclasses.replace(RECIPE, precision="fp16", epochs=40, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(InputError, match=r"t: the loss is (nan|inf) at step"):
        train(fresh(), coloured(), recipe, tmp_path / "state.safetensors")


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first, again, steps = fresh(), fresh(), []
    train(first, coloured(), RECIPE, tmp_path / "state.safetensors", title="t")
    train(
        again,
        coloured(),
        RECIPE,
        tmp_path / "state.safetensors",
        title="t",
        prepare=lambda *_: steps.append(1),
    )
    assert steps == []
    assert same(first, again)
    assert not again.training


def test_a_stop_before_the_first_checkpoint_costs_that_much_only(tmp_path: Path) -> None:
    whole, parted = fresh(), fresh()
    train(whole, coloured(), RECIPE, tmp_path / "whole.safetensors", title="t")
    with pytest.raises(StopError):
        train(parted, coloured(), RECIPE, tmp_path / "state.safetensors", title="t", prepare=stop_at(2))
    assert not (tmp_path / "state.safetensors").exists()
    parted = fresh()
    train(parted, coloured(), RECIPE, tmp_path / "state.safetensors", title="t")
    assert same(parted, whole)


@pytest.mark.parametrize(
    ("title", "change", "images"),
    [
        ("other", {}, coloured()),
        ("t", {"epochs": 3}, coloured()),
        ("t", {"seed": 1}, coloured()),
        ("t", {"learning_rate": 2e-2}, coloured()),
        ("t", {"precision": "bf16"}, coloured()),
        ("t", {"augmentation": Augmentation(flip=False)}, coloured()),
        ("t", {}, coloured(13)),
    ],
)
def test_a_training_with_other_settings_is_refused(
    title: str, change: dict[str, Any], images: Images, tmp_path: Path
) -> None:
    train(fresh(), coloured(), RECIPE, tmp_path / "state.safetensors", title="t")
    with pytest.raises(
        InputError, match=r"state\.safetensors: belongs to a training with other settings"
    ) as caught:
        train(
            fresh(),
            images,
            dataclasses.replace(RECIPE, **change),
            tmp_path / "state.safetensors",
            title=title,
        )
    assert "\n" not in str(caught.value)


def test_a_seed_gives_the_same_weights_again(tmp_path: Path) -> None:
    runs = [fresh() for _ in range(3)]
    for index, (network, seed) in enumerate(zip(runs, (5, 5, 6), strict=True)):
        recipe = dataclasses.replace(RECIPE, seed=seed)
        train(network, coloured(), recipe, tmp_path / f"{index}.safetensors", title="t")
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


# Learning


@pytest.mark.parametrize(("precision", "distilled"), [("fp32", True), ("fp32", False), ("bf16", True)])
def test_it_learns(precision: Any, distilled: bool, tmp_path: Path) -> None:
    network, unseen = EfficientFormer(tiny(distilled=distilled), layer_scale_init=0.5), coloured(60, seed=1)
    before = evaluate(network, unseen, SIDE)
    recipe = Recipe(epochs=10, input_size=SIDE, batch_size=12, learning_rate=5e-3, precision=precision)
    train(network, coloured(48), recipe, tmp_path / "state.safetensors", title="t")
    after = evaluate(network, unseen, SIDE)
    assert after.loss < 0.7 * before.loss
    assert after.top1 > 0.9 > before.top1
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert not network.training


class Probe(nn.Module):
    """Logits of a bias alone; its matrices take part in the loss, but with no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.alpha = nn.Parameter(torch.ones(2, 2))
        self.idle = nn.Parameter(torch.ones(2, 2))
        self.vector = nn.Parameter(torch.ones(2))
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.flatten(1)[:, :2] @ self.idle).dtype)
        nothing = 0 * (self.alpha.sum() + self.idle.sum() + self.vector.sum())
        return (self.logits + nothing).expand(len(x), 3)


def probed(tmp_path: Path, *, searched: bool, **options: Any) -> Probe:
    probe = Probe()
    recipe = dataclasses.replace(RECIPE, **options)
    parameters = (probe.alpha,) if searched else ()
    train(probe, coloured(), recipe, tmp_path / "state.safetensors", title="t", searched=parameters)
    return probe


def test_searched_parameters_get_no_weight_decay(tmp_path: Path) -> None:
    probe = probed(tmp_path, searched=True, weight_decay=0.5)
    assert torch.equal(probe.alpha, torch.ones(2, 2))
    assert torch.equal(probe.vector, torch.ones(2))  # nor do vectors
    assert (probe.idle < 0.999).all()


def test_a_matrix_that_is_not_searched_decays(tmp_path: Path) -> None:
    assert (probed(tmp_path, searched=False, weight_decay=0.5).alpha < 0.999).all()


class TwoRates(nn.Module):
    """Two parameters with the same part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.searched = nn.Parameter(torch.zeros(3))
        self.usual = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.searched + self.usual).expand(len(x), 3)


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_searched_parameters_learn_so_many_times_as_fast(factor: float, tmp_path: Path) -> None:
    model = TwoRates()
    images = Images(coloured().pixels, torch.zeros(12, dtype=torch.int64), ())
    recipe = dataclasses.replace(RECIPE, clip=0.0, searched_factor=factor)
    train(model, images, recipe, tmp_path / "state.safetensors", title="t", searched=(model.searched,))
    assert torch.allclose(model.searched, factor * model.usual, rtol=1e-3)  # Adam: gradients' signs alone
    assert model.usual[0] > 0


@pytest.mark.parametrize(("clip", "clipped"), [(0.0, []), (0.01, ["usual"])])
def test_gradients_are_clipped_but_not_of_what_is_searched(
    clip: float, clipped: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = TwoRates(), []
    monkeypatch.setattr(
        learner, "adaptive_clip_grad", lambda parameters, factor: given.append(list(parameters))
    )
    recipe = dataclasses.replace(RECIPE, clip=clip)
    train(model, coloured(), recipe, tmp_path / "state.safetensors", title="t", searched=(model.searched,))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [[names[id(one)] for one in parameters] for parameters in given] == [clipped] * (
        6 if clipped else 0
    )


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(precision: Any, expected: torch.dtype, tmp_path: Path) -> None:
    probe = probed(tmp_path, searched=False, precision=precision)
    assert set(probe.seen) == {expected}


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step."""
    seen: list[float] = []
    real = Learner.step

    def watched(self: Learner, part: Part, step: int) -> Tensor:
        seen.append(self.optimizer.param_groups[0]["lr"])
        return real(self, part, step)

    monkeypatch.setattr(Learner, "step", watched)
    return seen


def test_the_rate_falls_by_a_cosine_to_nothing(rates: list[float], tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, warmup_epochs=0)
    train(fresh(), coloured(), recipe, tmp_path / "state.safetensors", title="t")
    expected = [RECIPE.learning_rate * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert rates == pytest.approx(expected)


def test_the_rate_rises_evenly_from_nothing(rates: list[float], tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=10, warmup_epochs=5)  # 15 of 30 steps
    train(fresh(), coloured(), recipe, tmp_path / "state.safetensors", title="t")
    assert rates[:15] == pytest.approx([RECIPE.learning_rate * step / 15 for step in range(15)])
    assert rates[15:] == sorted(rates[15:], reverse=True)
    assert 0 < rates[-1] < 0.02 * RECIPE.learning_rate


def test_the_rate_reaches_its_peak_after_the_warm_up(rates: list[float], tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, warmup_epochs=1)
    train(fresh(), coloured(), recipe, tmp_path / "state.safetensors", title="t")
    assert rates[3] == max(rates) == pytest.approx(RECIPE.learning_rate)


def test_the_loss_is_the_mean_over_the_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.tensor(row)) for row in ([0.0, 2], [1.0, 0]))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first.expand(len(x), 2), self.second.expand(len(x), 2)

    images = coloured(2, classes=2)
    expected = torch.tensor([[0.0, 2], [1.0, 0]]).log_softmax(1).mean().neg()  # one image of each class
    recipe = Recipe(epochs=1, input_size=SIDE, batch_size=2, label_smoothing=0.0)
    train(Pair(), images, recipe, tmp_path / "s.safetensors", title="pair", classes=2, progress=Progress())
    assert f"pair · loss {expected:.3f} · 1/1" in capsys.readouterr().err


def test_training_leaves_its_images_and_the_generator_alone(tmp_path: Path) -> None:
    images, network = coloured(), fresh()
    before, state = copy.deepcopy(images), torch.get_rng_state()
    train(network, images, RECIPE, tmp_path / "state.safetensors", title="t")
    assert torch.equal(images.pixels, before.pixels)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup_epochs=0, epochs=5)
    with pytest.raises(
        InputError, match=r"t: the loss is (nan|inf) at step \d+; lower --learning-rate 1e\+30"
    ):
        train(fresh(), coloured(), recipe, tmp_path / "state.safetensors", title="t")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_the_step_that_was_under_way(number: int, tmp_path: Path) -> None:
    """With no checkpoint due, none of the three steps made is lost."""

    def ask(step: int, _share: float) -> None:
        if step == 2:
            signal.raise_signal(number)

    state, made = tmp_path / "state.safetensors", []
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), coloured(), RECIPE, state, title="t", prepare=ask)
    assert signal.getsignal(number) is before
    train(fresh(), coloured(), RECIPE, state, title="t", prepare=lambda step, _: made.append(step))
    assert made[0] == 3
