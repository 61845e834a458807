"""The pictures that networks are scored on: a part of a data set, or a sample of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientformer.data.sources import open_parts
from efficientformer.data.sources.base import Parts, Source
from efficientformer.data.sources.picked import Picked
from efficientformer.errors import InputError
from efficientformer.files import read_json
from efficientformer.progress import Progress

SPLITS = ("val", "train")


@dataclass(frozen=True)
class Pictures:
    """What networks are scored on.

    Attributes:
        data: the data set's folder or file.
        split: `val` or `train`.
        classes: names by index.
        source: the pictures.
        of: how many the split has; more than the source if that is a sample.
        seed: of the split, where the data set has none, and of the sample.
        digest: changes with the pictures.
    """

    data: Path
    split: str
    classes: tuple[str, ...]
    source: Source
    of: int
    seed: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON document: which pictures, not what became of them."""
        return {
            "name": self.data.resolve().name,
            "split": self.split,
            "pictures": len(self.source),
            "of": self.of,
            "seed": self.seed,
            "digest": self.digest,
        }


def open_pictures(
    data: Path,
    split: str = "val",
    limit: int | None = None,
    seed: int | None = None,
    *,
    models: Sequence[str] = (),
    progress: Progress | None = None,
) -> Pictures:
    """A part of a data set.

    Args:
        data: whatever `data.sources` opens.
        split: `val` or `train`.
        limit: at most so many, drawn by the seed, so that the classes are mixed; the same ones every time.
        seed: see above; it also splits a data set that comes in one part. By default that of the runs among
            the models, else 0: with another, a run would be scored on what it learnt from.
        models: the networks that are to be scored, as they are named.
        progress: told how far opening it is.

    Raises:
        InputError: if there is no such data set or split, a limit below one, or runs that set other pictures
            apart.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is not known; known: {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: score at least one picture")
    seeds = ({None: seed} if seed is not None else _seeds_of_runs(models)) or {None: 0}
    (first, seed), *others = seeds.items()
    parts = open_parts(data, seed, progress=progress)
    source = _part(parts, split)
    for name, other in others:
        if other != seed and _part(open_parts(data, other), split).digest() != source.digest():
            raise InputError(
                f"{first} and {name} set other pictures apart (seeds {seed} and {other}); score them one at "
                "a time, or give --seed"
            )
    count = len(source)
    if limit is not None and limit < count:
        chosen = np.random.default_rng((seed, count)).permutation(count)[:limit]
        source = Picked(source, sorted(chosen.tolist()))
    return Pictures(data, split, tuple(parts.classes), source, count, seed, source.digest())


def _part(parts: Parts, split: str) -> Source:
    return parts.val if split == "val" else parts.train


def _seeds_of_runs(models: Sequence[str]) -> dict[str | None, int]:
    """The seed of each run among the networks; a run's exported files count."""
    seeds: dict[str | None, int] = {}
    for one in models:
        folder = Path(one) if Path(one).is_dir() else Path(one).parent
        if Path(one).exists() and (folder / "summary.json").is_file():
            seeds[one] = int(read_json(folder / "summary.json").get("seed", 0))
    return seeds
