"""The folder a run works in: free or of the same job, held against other processes, taken up again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from efficientformer.architecture import Architecture
from efficientformer.errors import InputError
from efficientformer.files import read_json, write_json

try:
    import fcntl
except ImportError:  # not on Windows: there two processes in one folder are not noticed
    fcntl = None

TABLE = "latency.sqlite"
LOCK = ".lock"
WORK = "work"
# What a run that was stopped before its claim may leave, half-written too.
_UNCLAIMED = (TABLE, LOCK, "job.json")
_NO_CLAIM = (
    "max_unreadable",
    "workers",
    "budget",
    "device",
)  # of a job's entries: they may change in a folder


class Claim(Protocol):
    """A job, as far as its folder is concerned."""

    def document(self) -> dict[str, Any]:
        """What tells it from other jobs, as a JSON document."""
        ...


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes. `work/` is only needed until the run is done."""

    root: Path

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.root / name

    def work(self, name: str) -> Path:
        """The path of something that is deleted at the end."""
        return self.root / WORK / name

    def training_state(self, architecture: Architecture) -> Path:
        """Where the training of one found network stands."""
        text = json.dumps(architecture.to_json(), sort_keys=True)
        return self.work(f"training-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors")

    def check(self, job: Claim) -> None:
        """Make sure the folder is free, or holds the same job.

        Raises:
            InputError: if it holds another job, or files that are not a run's.
        """
        path, document = self.file("job.json"), job.document()
        if path.exists():
            known = read_json(path)
            here, asked = dict(_leaves(known)), dict(_leaves(document))
            compared = [key for key in asked if key not in _NO_CLAIM]
            if different := [key for key in compared if here.get(key) != asked[key]]:
                key = different[0]
                was = f"with {key} {here.get(key)}, not {asked[key]}"
                raise InputError(f"{self.root}: holds a run {was}; give another --out, or remove it")
        elif self.root.is_file():
            raise InputError(f"{self.root}: is a file; give another --out")
        elif self.root.exists() and any(map(_is_foreign, self.root.iterdir())):
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

    def claim(self, job: Claim) -> None:
        """Write the job into the folder; from now on only the same job is taken up in it."""
        write_json(self.file("job.json"), job.document())


def _leaves(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a document, those of inner ones as `outer.inner`."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_foreign(path: Path) -> bool:
    return path.name != WORK and not path.name.startswith(_UNCLAIMED)
