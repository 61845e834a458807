"""How good a network in training is, epoch by epoch, counted by all its processes together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from efficientformer.evaluation.score import Accuracy, Tally
from efficientformer.pipeline.train_job import TrainJob
from efficientformer.pipeline.training_data import TrainingData
from efficientformer.progress import Progress
from efficientformer.training.distributed import World
from efficientformer.training.learner import Learner
from efficientformer.training.logs import Log


class Judge:
    """Scores the network, and its moving average, on the validation images after an epoch."""

    def __init__(self, job: TrainJob, data: TrainingData, world: World, log: Log, progress: Progress) -> None:
        self.job, self.data, self.world, self.log, self.progress = job, data, world, log, progress
        self._last: dict[str, Accuracy] = {}
        self._of = 0

    def __call__(self, epoch: int, learner: Learner, asked_to_stop: Callable[[], int]) -> None:
        """Score, tell and log; nothing of it if it is asked to stop meanwhile."""
        if epoch % self.job.evaluate_every and epoch != self.job.recipe.epochs:
            return
        scored = self._scored(learner, asked_to_stop)
        if self.world.any(bool(asked_to_stop())):
            return
        self._last, self._of = scored, epoch
        numbers: dict[str, float] = {}
        for name, accuracy in self._last.items():
            numbers[f"{name}/top1"] = accuracy.score.top1
            numbers[f"{name}/loss"] = accuracy.score.loss
        numbers["images"] = self._last["weights"].score.images
        self.log.epoch(epoch * self.data.train.order.steps_per_epoch, epoch, numbers)
        told = ", ".join(f"{name} {accuracy.score}" for name, accuracy in self._last.items())
        self.progress.line(f"   epoch {epoch}/{self.job.recipe.epochs}: top-1 {told}")

    def of(self, learner: Learner) -> dict[str, Accuracy]:
        """The accuracies at the end; counted anew if the last epoch was another call's."""
        return self._last if self._of == self.job.recipe.epochs else self._scored(learner, lambda: 0)

    @torch.no_grad()
    def _scored(self, learner: Learner, asked_to_stop: Callable[[], int]) -> dict[str, Accuracy]:
        networks = {"weights": learner.model.eval()}
        if learner.average:
            networks["average"] = learner.average.module.eval()
        tallies = {name: Tally(len(self.data.parts.classes), self.world.device) for name in networks}
        for network in networks.values():
            self.world.share_buffers(network)
        for x, labels in self.data.val():
            for name, network in networks.items():
                tallies[name].add(network(x), labels)
            if asked_to_stop():
                break
        unreadable = self.data.unreadable(self.world.gather(self.data.unreadable(())))
        return {name: self._together(tally, unreadable) for name, tally in tallies.items()}

    def _together(self, tally: Tally, unreadable: tuple[str, ...]) -> Accuracy:
        for mine in tally.state():
            mine.copy_(self.world.sum(mine.cpu()))
        return tally.accuracy(unreadable)
