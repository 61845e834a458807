"""The processes of one slimming run: the first decides and measures, all train and score.

Candidates are split over the processes, each scored whole in one of them by the same weights and images, so a
score does not depend on how many there are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientformer.architecture import Architecture
from efficientformer.evaluation.score import Score
from efficientformer.model.network import EfficientFormer
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.pipeline.slim_training import Judge, learn_network
from efficientformer.progress import Progress
from efficientformer.training.distributed import World


@dataclass(frozen=True)
class Team:
    """All processes of a run; each holds one.

    Attributes:
        job: the run.
        judge: the same in all processes.
        world: where this process stands.
        progress: told how far it is.
    """

    job: Job
    judge: Judge
    world: World
    progress: Progress

    @contextlib.contextmanager
    def gathered(self) -> Generator[bool, None, None]:
        """True in the process that decides; the others work for it until its context ends, then see False."""
        if not self.world.main:
            self._serve()
            yield False
            return
        yield True
        self._tell({"do": "leave"})  # not after an error: then the launcher ends all

    def score_many(self, architectures: Sequence[Architecture]) -> list[Score]:
        """Scores of some architectures, in their order; asked by the first process."""
        self._tell({"do": "score", "architectures": [one.to_json() for one in architectures]})
        return self._score(architectures)

    def learn(self, architecture: Architecture, folder: RunFolder) -> EfficientFormer:
        """A network of the space, trained; asked by the first process."""
        self._tell({"do": "learn", "architecture": architecture.to_json(), "folder": str(folder.root)})
        return self._learn(architecture, folder)

    def _tell(self, order: dict[str, Any]) -> None:
        self.world.share(json.dumps(order))

    def _serve(self) -> None:
        while (order := json.loads(self.world.share("")))["do"] != "leave":
            if order["do"] == "score":
                self._score([Architecture.from_json(one) for one in order["architectures"]])
            else:
                architecture = Architecture.from_json(order["architecture"])
                self._learn(architecture, RunFolder(Path(order["folder"])))

    def _score(self, architectures: Sequence[Architecture]) -> list[Score]:
        """This process's share, and all of them."""
        rank, size = self.world.rank, self.world.size
        mine = [self.judge.score(one) for one in architectures[rank::size]]
        lines = self.world.gather(tuple(json.dumps([one.top1, one.loss, one.images]) for one in mine))
        scores = iter([Score(*json.loads(line)) for line in lines])
        found: dict[int, Score] = {}
        for first in range(size):
            for index in range(first, len(architectures), size):
                found[index] = next(scores)
        return [found[index] for index in range(len(architectures))]

    def _learn(self, architecture: Architecture, folder: RunFolder) -> EfficientFormer:
        return learn_network(self.job, self.judge, architecture, folder, self.progress, self.world)
