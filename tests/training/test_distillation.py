"""What a teacher is shown and says, and the losses, against hand formulas and timm's tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

import efficientformer as ef
from efficientformer import InputError
from efficientformer.evaluation.classifier import Classifier
from efficientformer.evaluation.protocol import Protocol
from efficientformer.model.checkpoint import load_model
from efficientformer.training.distillation import Teacher, distillation_loss, prepare_student
from efficientformer.training.recipe import Distillation
from tests.strategies import randomised, tiny

IMAGENET = Protocol("own", 16, 16)
HALVES = Protocol("own", 16, 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))
BATCH, CLASSES = 5, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FIRST, SECOND, TAUGHT = (3 * random(BATCH, CLASSES, seed=seed) for seed in range(3))
TARGETS = random(BATCH, CLASSES, seed=3).softmax(1)


def told(network: nn.Module, protocol: Protocol = IMAGENET, outputs: int = 6) -> Classifier:
    return Classifier("made", "ours", protocol, outputs, None, network.eval())


class Means(nn.Module):
    """Six logits that tell the means and the sizes of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        sides = x.new_tensor(x.shape[-2:]).expand(len(x), 2)
        return torch.cat([x.mean((2, 3)), sides, x[:, 0, 0, :1]], 1)


def shares(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy() - logits.double().numpy().max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def entropy(logits: Tensor, targets: np.ndarray) -> float:
    return float(-(targets * np.log(shares(logits))).sum(1).mean())


def test_without_distillation_it_is_the_mean_of_the_classifiers() -> None:
    wanted = (entropy(FIRST, TARGETS.numpy()) + entropy(SECOND, TARGETS.numpy())) / 2
    assert float(distillation_loss((FIRST, SECOND), TARGETS)) == pytest.approx(wanted, rel=1e-5)
    assert float(distillation_loss(FIRST, TARGETS)) == pytest.approx(
        entropy(FIRST, TARGETS.numpy()), rel=1e-5
    )


@pytest.mark.parametrize("outputs", [(FIRST, SECOND), FIRST], ids=["two classifiers", "one"])
def test_hard_distillation_by_hand(outputs: Tensor | tuple[Tensor, Tensor]) -> None:
    last = outputs[-1] if isinstance(outputs, tuple) else outputs
    said = np.eye(CLASSES)[TAUGHT.numpy().argmax(1)]
    wanted = 0.7 * entropy(FIRST, TARGETS.numpy()) + 0.3 * entropy(last, said)
    assert float(distillation_loss(outputs, TARGETS, TAUGHT, "hard", 0.3)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("outputs", [(FIRST, SECOND), FIRST], ids=["two classifiers", "one"])
def test_soft_distillation_by_hand(outputs: Tensor | tuple[Tensor, Tensor], temperature: float) -> None:
    last = outputs[-1] if isinstance(outputs, tuple) else outputs
    teacher, student = shares(TAUGHT / temperature), shares(last / temperature)
    divergence = (teacher * np.log(teacher / student)).sum(1).mean() * temperature**2
    wanted = 0.7 * entropy(FIRST, TARGETS.numpy()) + 0.3 * divergence
    given_ = distillation_loss(outputs, TARGETS, TAUGHT, "soft", 0.3, temperature)
    assert float(given_) == pytest.approx(wanted, rel=1e-5)


class Said(nn.Module):
    """Gives the same logits whatever it is shown, as timm's tasks want a student and a teacher."""

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.ParameterList(logits)
        self.num_classes, self.in_chans = CLASSES, 3
        self.pretrained_cfg = {"mean": IMAGENET.mean, "std": IMAGENET.std}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return tuple(self.logits) if len(self.logits) > 1 else self.logits[0]

    def set_distilled_training(self, enable: bool = True) -> None:
        assert enable


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_two_classifiers_as_in_timm(kind: Distillation) -> None:
    task = pytest.importorskip("timm.task", reason="this timm has no distillation")
    theirs = task.TokenDistillationTask(
        Said(FIRST, SECOND), Said(TAUGHT), SoftTargetCrossEntropy(), distill_type=kind,
        task_loss_weight=0.4, temperature=2.0, verbose=False,
    )  # fmt: skip
    ours = distillation_loss((FIRST, SECOND), TARGETS, TAUGHT, kind, 0.6, 2.0)
    torch.testing.assert_close(ours, theirs(random(BATCH, 3, 8, 8), TARGETS)["loss"].detach())


def test_one_classifier_as_in_timm() -> None:
    task = pytest.importorskip("timm.task", reason="this timm has no distillation")
    theirs = task.LogitDistillationTask(
        Said(FIRST), Said(TAUGHT), SoftTargetCrossEntropy(), task_loss_weight=0.4, temperature=2.0,
        verbose=False,
    )  # fmt: skip
    ours = distillation_loss(FIRST, TARGETS, TAUGHT, "soft", 0.6, 2.0)
    torch.testing.assert_close(ours, theirs(random(BATCH, 3, 8, 8), TARGETS)["loss"].detach())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["hard", "soft"]), st.floats(0, 1), st.floats(1, 8), st.floats(-50, 50))
def test_laws_of_the_loss(kind: Distillation, share: float, temperature: float, constant: float) -> None:
    def loss(share: float, teacher: Tensor = TAUGHT, student: Tensor = SECOND) -> Tensor:
        return distillation_loss((FIRST, student), TARGETS, teacher, kind, share, temperature)

    torch.testing.assert_close(loss(share), (1 - share) * loss(0) + share * loss(1))
    torch.testing.assert_close(loss(0), F.cross_entropy(FIRST, TARGETS))
    torch.testing.assert_close(loss(share), loss(share, TAUGHT + constant), rtol=1e-4, atol=1e-4)
    if kind == "soft":
        assert float(loss(1, TAUGHT, TAUGHT)) == pytest.approx(0, abs=1e-5)
        assert float(loss(1)) > 0


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_each_classifier_has_its_own_teacher(kind: Distillation) -> None:
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    distillation_loss((first, second), TARGETS, TAUGHT, kind, 0.5).backward()
    torch.testing.assert_close(first.grad, 0.5 * (FIRST.softmax(1) - TARGETS) / BATCH)
    said = F.one_hot(TAUGHT.argmax(1), CLASSES) if kind == "hard" else TAUGHT.softmax(1)
    torch.testing.assert_close(second.grad, 0.5 * (SECOND.softmax(1) - said) / BATCH)


def test_half_precision_is_computed_in_full() -> None:
    halves = FIRST.bfloat16(), SECOND.bfloat16()
    given_ = distillation_loss(halves, TARGETS, TAUGHT.bfloat16(), "soft", 0.5, 2.0)
    assert given_.dtype == torch.float32
    wanted = distillation_loss(
        (halves[0].float(), halves[1].float()), TARGETS, TAUGHT.bfloat16().float(), "soft", 0.5, 2.0
    )
    assert torch.equal(given_, wanted)


@pytest.mark.parametrize("teacher", [None, TAUGHT[:, :2], TAUGHT[:2]])
def test_a_loss_without_its_teacher_is_refused(teacher: Tensor | None) -> None:
    with pytest.raises(InputError, match=r"hard distillation needs a teacher's logits \(5, 4\), not "):
        distillation_loss((FIRST, SECOND), TARGETS, teacher, "hard")


def test_a_teacher_gives_its_logits_of_the_datas_classes() -> None:
    teacher = Teacher(told(Means()), np.array([2, 0, 5]))
    x = random(BATCH, 3, 16, 16).requires_grad_()
    said = teacher(x)
    torch.testing.assert_close(
        said, torch.stack([x[:, 2].mean((1, 2)), x[:, 0].mean((1, 2)), x[:, 0, 0, 0]], 1)
    )
    assert not said.requires_grad
    assert teacher.classes == 3


def test_a_batch_that_fits_is_not_touched() -> None:
    x = random(2, 3, 16, 16)
    assert Teacher(told(Means()), np.arange(3)).prepare(x) is x


@pytest.mark.parametrize("own", [IMAGENET, HALVES])
@pytest.mark.parametrize("student", [IMAGENET, HALVES])
def test_a_teacher_sees_the_students_pixels(own: Protocol, student: Protocol) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    teacher = Teacher(told(Means(), own), np.arange(3), student.mean, student.std)
    torch.testing.assert_close(teacher.prepare(student.prepare(picture)[None])[0], own.prepare(picture))


@pytest.mark.parametrize("side", [10, 16, 40])
def test_a_teacher_sees_its_own_size(side: int) -> None:
    x = random(2, 3, side, side)
    shown = Teacher(told(Means(), IMAGENET), np.arange(3)).prepare(x)
    channels = [[Image.fromarray(one.numpy()) for one in image] for image in x]
    resized = [[one.resize((16, 16), Image.Resampling.BICUBIC) for one in image] for image in channels]
    wanted = torch.from_numpy(np.array([[np.asarray(one) for one in image] for image in resized]))
    torch.testing.assert_close(shown, wanted, rtol=1e-4, atol=1e-4)


def test_a_teacher_is_not_changed_by_what_it_sees() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5), Means())
    teacher = Teacher(told(network), np.arange(3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = random(2, 3, 16, 16)
    assert torch.equal(teacher(x), teacher(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_teacher_works_under_the_students_autocast() -> None:
    kinds: list[torch.dtype] = []
    layer = nn.Conv2d(3, 6, 16)
    layer.register_forward_hook(lambda _module, _given, output: kinds.append(output.dtype))
    teacher = Teacher(told(nn.Sequential(layer, nn.Flatten())), np.arange(6))
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(random(2, 3, 20, 20)).dtype == torch.float32
    assert kinds == [torch.bfloat16]


@pytest.mark.parametrize("mapping", [[0, 6], [-1], []])
def test_a_mapping_to_what_is_not_there_is_refused(mapping: list[int]) -> None:
    with pytest.raises(InputError, match="made: has 6 outputs"):
        Teacher(told(Means()), np.array(mapping, np.int64))


def ours(distilled: bool) -> nn.Module:
    return ef.EfficientFormer(tiny(distilled=distilled))


STUDENTS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ours": (lambda: ours(distilled=True), 2),
    "ours, one classifier": (lambda: ours(distilled=False), 1),
    "a peer": (lambda: timm.create_model("test_resnet", num_classes=3), 1),
    "a distilled peer": (lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=32), 2),
    "any module": (lambda: nn.Linear(2, 3), 1),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_two_classifiers_give_both(name: str) -> None:
    make, heads = STUDENTS[name]
    student = make()
    assert prepare_student(student, "hard") == heads
    if name != "any module":
        outputs = student.train()(random(2, 3, 32, 32))
        assert isinstance(outputs, tuple) == (heads == 2)
        assert isinstance(student.eval()(random(2, 3, 32, 32)), Tensor)


def test_two_classifiers_that_give_one_mean_are_refused() -> None:
    class Stubborn(nn.Module):
        def get_classifier(self) -> tuple[nn.Module, nn.Module]:
            return nn.Identity(), nn.Identity()

    with pytest.raises(InputError, match="Stubborn has two classifiers, but gives their mean alone"):
        prepare_student(Stubborn(), "hard")
    assert prepare_student(Stubborn(), "none") == 2


@pytest.mark.parametrize("distilled", [True, False], ids=["two classifiers", "one"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_student_is_fine_tuned_to_its_teacher(kind: Distillation, distilled: bool, tmp_path: Path) -> None:
    path = tmp_path / "before.safetensors"
    ef.save_model(path, randomised(tiny(distilled=distilled)))
    student = load_model(path)
    student.reset_classifier(2)
    prepare_student(student, kind)
    labels = torch.arange(16) % 2
    x = 0.3 * random(16, 3, 32, 32) + torch.stack([1.0 - labels, labels, 0.0 * labels], 1)[:, :, None, None]
    teacher = Teacher(told(Means(), Protocol("own", 24, 24)), np.array([0, 1]))
    targets = torch.full((16, 2), 0.5)  # they say nothing: what is learnt comes from the teacher
    optimizer = torch.optim.AdamW(student.train().parameters(), lr=1e-2)
    for _ in range(12):
        loss = distillation_loss(student(x), targets, teacher(x), kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    heads = student.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in head.parameters())
    outputs = student(x)
    taught = outputs[-1] if isinstance(outputs, tuple) else outputs
    assert (taught.argmax(1) == labels).float().mean() > 0.9
