"""What a slimming run is asked for."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efficientformer.architecture import check_input_size
from efficientformer.data.augmentation import Augmentation
from efficientformer.data.bad_files import MAX_UNREADABLE
from efficientformer.errors import InputError
from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.search.policies.search import BY_WINDOW, EVALUATIONS, POLICIES
from efficientformer.search.space.search_space import OPEN_KINDS, SUPERNETS, SearchSpace, supernet_space
from efficientformer.search.supernet.draws import Sampling
from efficientformer.training.recipe import Precision

FORMAT = "efficientformer.run/1"
TOLERANCE = 0.02  # the exported file's median may be so much over the budget
SHORTFALL = 0.07  # and so much under it
NEAR = Sampling(paths="near")


def sampling_for(policy: str) -> Sampling:
    """The supernet that a policy is best asked over, of those measured (docs/slimming-studies.md).

    For the greedy ones, which go by α, it is the paper's.
    """
    if policy in BY_WINDOW:
        return NEAR
    return Sampling(paths="even", elastic=True) if policy == "exact" else Sampling()


@dataclass(frozen=True)
class Job:
    """A slimming run; by default as docs/slimming.md recommends, not the paper's way.

    Attributes:
        data: the folder of images.
        budgets: what one inference may take; of each a network is found, all from one supernet.
        target: where.
        precisions: in which the network may run there, beside the target's own; the best file's is taken.
        input_size: pixels of a side.
        supernet: one of `SUPERNETS`, or `auto` for the smallest that leaves room for a search.
        kinds: of blocks: `pool` and `attention` are the paper's, `ffn` is EfficientFormerV2's.
        expansions: that a block's MLP may be narrowed to.
        activations: that may take the place of GELU.
        stems: that may take the place of the two 3×3 convolutions.
        input_sizes: smaller sides that images may have.
        width_step: what a stage is narrowed by at once.
        policy: how the space is searched (`search.policies.POLICIES`).
        evaluations: networks that bayesian, evolution and random search may score.
        supernet_epochs: passes over the training images for the supernet.
        epochs: the same for the network that was found.
        batch_size: images a step.
        learning_rate: AdamW's peak, for both trainings.
        augmentation: crops and flips, for both.
        precision: of both trainings, `fp32` or `bf16`; latency is measured in the targets'.
        sampling: how the supernet's steps choose among paths and widths; with another policy, see
            `sampling_for`.
        max_unreadable: greatest share of unreadable images.
        train_unslimmed: also train the unslimmed network by the same recipe, to see what slimming cost.
        seed: of the split and of everything random.
        device: that trains: `cpu`, `cuda`, or `auto`.
    """

    data: Path
    budgets: tuple[Budget, ...]
    target: Target = field(default_factory=Target)
    precisions: tuple[str, ...] = ()
    input_size: int = 128
    supernet: str = "auto"
    kinds: tuple[str, ...] = OPEN_KINDS
    expansions: tuple[int, ...] = (2, 3)
    activations: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    input_sizes: tuple[int, ...] = ()
    width_step: int = SearchSpace.width_step
    policy: str = "bayesian"
    evaluations: int = EVALUATIONS
    supernet_epochs: int = 20
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "fp32"
    sampling: Sampling = NEAR
    max_unreadable: float = MAX_UNREADABLE
    train_unslimmed: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_input_size((self.input_size, self.input_size))
        if self.supernet != "auto" and self.supernet not in SUPERNETS:
            known = ", ".join(("auto", *SUPERNETS))
            raise InputError(f"unknown supernet {self.supernet!r}; known: {known}")
        if self.policy not in POLICIES:
            raise InputError(f"unknown policy {self.policy!r}; known: {', '.join(POLICIES)}")
        if not self.budgets or len(set(map(str, self.budgets))) < len(self.budgets):
            raise InputError("budget: give one or several different ones, such as 4ms,8ms,12ms")
        if self.sampling.paths == "near" and self.policy not in BY_WINDOW:
            raise InputError(
                f"--paths near trains networks near the budget only, and --policy {self.policy} judges "
                f"larger ones; policies that do not: {', '.join(BY_WINDOW)}"
            )
        if not self.sampling.teaches_alpha and self.policy == "greedy":
            raise InputError(
                f"--paths {self.sampling.paths} leaves α unlearnt, which --policy greedy goes by; "
                "give another of the two"
            )
        _ = self.targets  # raises, where the runtime has not got a precision
        for side in self.input_sizes:
            check_input_size((side, side))
            if side >= self.input_size:
                raise InputError(f"input_sizes are smaller than the input size {self.input_size}, not {side}")
        for name, value, least in (
            ("supernet_epochs", self.supernet_epochs, 1),
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 2),
            ("evaluations", self.evaluations, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        for name, value in (
            ("max_unreadable", self.max_unreadable),
            ("min_area", self.augmentation.min_area),
        ):
            if not 0 <= value <= 1:
                raise InputError(f"{name} is a share between 0 and 1, not {value}")
        for name, value in (
            ("learning_rate", self.learning_rate),
            ("tau_start", self.sampling.tau_start),
            ("tau_end", self.sampling.tau_end),
        ):
            if not value > 0:
                raise InputError(f"{name} must be above zero, not {value}")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The target in each precision that the network may run in, its own first.

        Raises:
            InputError: if the runtime has not got one of them.
        """
        precisions = (self.target.precision, *self.precisions)
        return tuple(self.target.under(one) for one in dict.fromkeys(precisions))

    def named(self, name: str, target: Target) -> str:
        """What a file of the run is called for one of its targets: `search.jsonl`, `search-int8.jsonl`."""
        stem, dot, ending = name.partition(".")
        return name if target == self.target else f"{stem}-{target.precision}{dot}{ending}"

    def space(self, supernet: str, num_classes: int) -> SearchSpace:
        """What is searched, for one of `SUPERNETS`."""
        return supernet_space(
            supernet,
            input_size=self.input_size,
            num_classes=num_classes,
            kinds=self.kinds,
            expansions=self.expansions,
            activations=self.activations,
            stems=self.stems,
            input_sizes=self.input_sizes,
            width_step=self.width_step,
        )

    def document(self) -> dict[str, Any]:
        """What the run's folder is claimed with; another budget may come into it later."""
        return {"format": FORMAT, **self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; the folder of images by its absolute path."""
        plain = dataclasses.asdict(self) | {
            "data": str(self.data.resolve()),
            "budget": ",".join(map(str, self.budgets)),
            "target": str(self.target),
        }
        del plain["budgets"]
        return json.loads(json.dumps(plain))
