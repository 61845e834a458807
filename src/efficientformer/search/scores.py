"""A book of scores: no network is scored twice, and a search that is run again finds its scores on disk.

Each score is a JSON line, on disk before the next is asked for; a last line cut short by a crash is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from efficientformer.architecture import Architecture, Block
from efficientformer.errors import InputError
from efficientformer.evaluation.score import Score
from efficientformer.files import JsonLines

FORMAT = "efficientformer.scores/1"


class Scored(Protocol):
    """What scoring a network gives."""

    @property
    def top1(self) -> float:
        """Share of the images that are right."""
        ...

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        ...

    @property
    def images(self) -> int:
        """How many images were scored."""
        ...


ScoreMany = Callable[[Sequence[Architecture]], Sequence[Scored]]
"""Scores of some architectures, in their order."""


def canonical(architecture: Architecture) -> Architecture:
    """The network as a book knows it: identities in place, all of one expansion, which they do not use.

    Its `compact` form would not do: which of a stage's blocks were left out decides what it inherits.
    """
    stages = (
        dataclasses.replace(
            stage, blocks=tuple(_OUT if block.kind == _OUT.kind else block for block in stage.blocks)
        )
        for stage in architecture.stages
    )
    return dataclasses.replace(architecture, stages=tuple(stages))


_OUT = Block("identity")


class ScoreBook:
    """Scores of networks, identities in place, kept in a file.

    Args:
        path: the file; it need not exist yet. None keeps the scores in memory.
        score_many: asked for the networks the book does not know, each once.
        of: what the scores depend on (weights, images, seed), as text; a book of something else is refused.
        batch: how many networks are asked for at once; their scores are on disk before the next are.

    Attributes:
        evaluations: how many networks `score_many` was asked for.

    Raises:
        InputError: if the file is no such book, is damaged, or is of something else.
    """

    def __init__(self, path: Path | None, score_many: ScoreMany, *, of: str = "", batch: int = 16) -> None:
        self.path, self._score_many, self._of, self._batch = path, score_many, of, batch
        self._lines = JsonLines(path) if path else None
        self._known: dict[Architecture, Score] = {}
        self.evaluations = 0
        if self._lines is not None:
            self._read(self._lines)

    def __len__(self) -> int:
        return len(self._known)

    def score(self, architectures: Sequence[Architecture]) -> list[Score]:
        """The scores of some networks, in their order; of several equal ones one is scored."""
        keys = [canonical(one) for one in architectures]
        unknown = [one for one in dict.fromkeys(keys) if one not in self._known]
        for start in range(0, len(unknown), self._batch):
            batch = unknown[start : start + self._batch]
            for one, score in zip(batch, self._score_many(batch), strict=True):
                self._known[one] = Score(score.top1, score.loss, score.images)
            self.evaluations += len(batch)
            self._write([_line(one, self._known[one]) for one in batch])
        return [self._known[one] for one in keys]

    def _read(self, book: JsonLines) -> None:
        path = book.path
        try:
            head, *lines = book.read() or [self._head()]
            if head["format"] != FORMAT:
                raise InputError(f"{path}: is no book of scores of {FORMAT}; give another file")
            if head["of"] != self._of:
                raise InputError(f"{path}: holds scores of other weights or images; remove it to score anew")
            for line in lines:
                score = Score(line["top1"], line["loss"], line["images"])
                self._known[Architecture.from_json(line["architecture"])] = score
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it to score anew") from None

    def _head(self) -> dict[str, Any]:
        return {"format": FORMAT, "of": self._of}

    def _write(self, lines: list[dict[str, Any]]) -> None:
        """Append lines and see them on disk."""
        if self._lines is not None:
            self._lines.append([*([self._head()] if self._lines.empty else []), *lines])


def _line(architecture: Architecture, score: Score) -> dict[str, Any]:
    fields = {"top1": score.top1, "loss": score.loss, "images": score.images}
    return {**fields, "architecture": architecture.to_json()}


class Tally:
    """A book as one policy uses it: counts the different networks it asks for, known to the book or not.

    So a search that is run again counts what it counted at first.
    """

    def __init__(self, score_many: Callable[[Sequence[Architecture]], list[Score]]) -> None:
        self._score_many = score_many
        self._asked: dict[Architecture, None] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def score(self, architectures: Sequence[Architecture]) -> list[Score]:
        """The scores of some networks, in their order."""
        self.count(architectures)
        return self._score_many(architectures)

    def count(self, architectures: Sequence[Architecture]) -> None:
        """Count networks that were scored in an earlier run."""
        self._asked |= dict.fromkeys(map(canonical, architectures))
