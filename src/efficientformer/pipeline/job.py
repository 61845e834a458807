"""What a slimming run is asked for, and the folder it works in."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture, check_input_size
from efficientformer.data.batches import Augmentation
from efficientformer.data.images import MAX_UNREADABLE
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_json
from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.search.space import SUPERNETS
from efficientformer.search.supernet import Temperature
from efficientformer.training.recipe import Precision

try:
    import fcntl
except ImportError:  # not on Windows: there two processes in one folder are not noticed
    fcntl = None

FORMAT = "efficientformer.run/1"
TABLE = "latency.sqlite"
LOCK = ".lock"
_UNCLAIMED = (
    TABLE,
    LOCK,
    "job.json",
)  # what a run that was stopped before its claim may leave, half-written too
AIM = 0.97  # the search aims a little under the budget: measurements scatter
TOLERANCE = 0.02  # the exported file's median may be so much over the budget


@dataclass(frozen=True)
class Job:
    """A slimming run.

    Attributes:
        data: the folder of images.
        budget: what one inference may take.
        target: where.
        input_size: pixels of a side.
        supernet: one of `SUPERNETS`, or `auto` for the smallest that leaves room for a search.
        supernet_epochs: passes over the training images for the supernet.
        epochs: the same for the network that was found.
        batch_size: images a step.
        learning_rate: AdamW's peak, for both trainings.
        augmentation: crops and flips, for both.
        precision: of both trainings, `fp32` or `bf16`; latency is measured in the target's.
        temperature: the supernet's τ and noise.
        max_unreadable: greatest share of unreadable images.
        train_unslimmed: also train the unslimmed network by the same recipe, to see what slimming cost.
        seed: of the split and of everything random.
    """

    data: Path
    budget: Budget
    target: Target = field(default_factory=Target)
    input_size: int = 128
    supernet: str = "auto"
    supernet_epochs: int = 20
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "fp32"
    temperature: Temperature = field(default_factory=Temperature)
    max_unreadable: float = MAX_UNREADABLE
    train_unslimmed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_input_size((self.input_size, self.input_size))
        if self.supernet != "auto" and self.supernet not in SUPERNETS:
            known = ", ".join(("auto", *SUPERNETS))
            raise InputError(f"unknown supernet {self.supernet!r}; known: {known}")
        for name, value, least in (
            ("supernet_epochs", self.supernet_epochs, 1),
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 2),
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
            ("tau_start", self.temperature.start),
            ("tau_end", self.temperature.end),
        ):
            if not value > 0:
                raise InputError(f"{name} must be above zero, not {value}")

    def to_json(self) -> dict[str, Any]:
        """As a JSON document; the folder of images by its absolute path."""
        plain = dataclasses.asdict(self) | {
            "data": str(self.data.resolve()),
            "budget": str(self.budget),
            "target": str(self.target),
        }
        return json.loads(json.dumps(plain))


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes. `work/` is only needed until the run is done."""

    root: Path

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.root / name

    def work(self, name: str) -> Path:
        """The path of something that is deleted at the end."""
        return self.root / "work" / name

    def training_state(self, architecture: Architecture) -> Path:
        """Where the training of one found network stands."""
        text = json.dumps(architecture.to_json(), sort_keys=True)
        return self.work(f"training-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors")

    def check(self, job: Job) -> None:
        """Make sure the folder is free, or holds the same job.

        Raises:
            InputError: if it holds another job, or files that are not a run's.
        """
        path, document = self.file("job.json"), {"format": FORMAT, **job.to_json()}
        if path.exists():
            known = read_json(path)
            compared = document.keys() - {"max_unreadable"}  # which changes no result
            if different := [key for key in document if key in compared and known.get(key) != document[key]]:
                key = different[0]
                was = f"with {key} {known.get(key)}, not {document[key]}"
                raise InputError(f"{self.root}: holds a run {was}; give another --out, or remove it")
        elif self.root.is_file():
            raise InputError(f"{self.root}: is a file; give another --out")
        elif self.root.exists() and any(not one.name.startswith(_UNCLAIMED) for one in self.root.iterdir()):
            raise InputError(f"{self.root}: is not empty and holds no run; give another --out")

    @contextlib.contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Hold the folder against other processes; the system lets go of it when this one ends.

        Raises:
            InputError: if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self.file(LOCK).open("w") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise InputError(
                        f"{self.root}: another process is at work in it; wait, or stop it"
                    ) from None
            yield

    def claim(self, job: Job) -> None:
        """Write the job into the folder; from now on only the same job is taken up in it."""
        write_json(self.file("job.json"), {"format": FORMAT, **job.to_json()})
