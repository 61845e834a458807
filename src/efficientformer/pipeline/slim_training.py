"""What the run learns: the supernet, what matters in it, and the network that was found."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from efficientformer.architecture import Architecture
from efficientformer.data.batches import cached_side
from efficientformer.data.images import Images, decode, refuse_unreadable
from efficientformer.data.sources.folder import Split
from efficientformer.evaluation.exported import ExportedFile
from efficientformer.evaluation.score import Score, evaluate, score
from efficientformer.latency.target import Target
from efficientformer.model.network import EfficientFormer
from efficientformer.model.weights import read_about, read_tensors, save_tensors
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.progress import Progress
from efficientformer.search.space.importance import Importance
from efficientformer.search.space.search_space import SearchSpace
from efficientformer.search.supernet.importance import block_scores, channel_scores, importance_by
from efficientformer.search.supernet.inherit import Ranking, inherit
from efficientformer.search.supernet.near import Near
from efficientformer.search.supernet.supernet import Supernet
from efficientformer.training.batch_norm import reestimate_batch_norm
from efficientformer.training.batches import held_batches
from efficientformer.training.distributed import World
from efficientformer.training.loop import train
from efficientformer.training.recipe import Recipe

SUPERNET = "supernet.safetensors"


@dataclass(frozen=True)
class ImageSets:
    """The decoded images of each use: learning, judging candidates, final figures."""

    train: Images
    search: Images
    val: Images

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The files left out."""
        return (*self.train.unreadable, *self.search.unreadable, *self.val.unreadable)


class Pictures:
    """A run's images, decoded once for each input size that is asked for.

    Args:
        job: the run.
        split: its files.
        folder: where decoded images are kept.
        world: of several processes the first decodes.
        progress: told how far it is.
    """

    def __init__(self, job: Job, split: Split, folder: RunFolder, world: World, progress: Progress) -> None:
        self._job, self._split, self._folder = job, split, folder
        self._world, self._progress = world, progress
        self._sides: dict[int, ImageSets] = {}

    def decode_all(self) -> ImageSets:
        """Decode for every input size of the job; those of its own.

        Raises:
            InputError: if too many are unreadable.
        """
        with self._world.main_first():
            for side in (self._job.input_size, *self._job.input_sizes):
                self.at(side)
        return self.at(self._job.input_size)

    def at(self, side: int) -> ImageSets:
        """The images for networks of an input size."""
        if side not in self._sides:
            read = partial(decode, side=cached_side(side), progress=self._progress)
            names = ("train", "search", "val")
            sets = ImageSets(
                *(
                    read(getattr(self._split, name), cache=self._folder.work(f"{name}-{side}.images"))
                    for name in names
                )
            )
            refuse_unreadable((sets.train, sets.search, sets.val), self._job.max_unreadable)
            self._sides[side] = sets
        return self._sides[side]


def recipe(job: Job, epochs: int, side: int | None = None) -> Recipe:
    """The job's recipe with a number of epochs, a tenth of them to warm up."""
    return Recipe(
        epochs,
        input_size=side or job.input_size,
        warmup_epochs=0.1 * epochs,
        batch_size=job.batch_size,
        learning_rate=job.learning_rate,
        augmentation=job.augmentation,
        precision=job.precision,
        seed=job.seed,
    )


def learn_supernet(
    job: Job,
    space: SearchSpace,
    images: Images,
    folder: RunFolder,
    progress: Progress,
    world: World | None = None,
    near: Near | None = None,
) -> Supernet:
    """Train the supernet, in all processes together, or read it where it is done.

    Args:
        job: how.
        space: of the supernet.
        images: to train on.
        folder: keeps it, and the state of its training.
        progress: told how far it is.
        world: the processes.
        near: draws its networks, if the job's paths are `near`; the same in all processes.
    """
    world = world or World()
    path = folder.file(SUPERNET)
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        supernet = Supernet(space)
    if not path.exists():
        how = recipe(job, job.supernet_epochs)
        train(
            supernet,
            held_batches(images, how, world),
            how,
            folder.work("supernet-training.safetensors"),
            classes=space.largest.num_classes,
            title="supernet",
            world=world,
            prepare=lambda step, share: supernet.draw(step, share, job.sampling, job.seed, near),
            searched=tuple(supernet.alphas),
            identity={"near_ms": list(near.budgets_ms)} if near else None,
            progress=progress,
        )
        world.wait()  # for the last to have looked for the file
        if world.main:
            about = {
                "space": space.to_json(),
                "job": job.to_json(),
                "near_ms": near.budgets_ms if near else [],
            }
            save_tensors(path, supernet.state_dict(), about)
        world.wait()
    elif near:
        _warn_of_others(near, read_about(path)["near_ms"], progress)
    supernet.load_state_dict(read_tensors(path))
    return supernet.cpu().eval()


def _warn_of_others(near: Near, trained_ms: Sequence[float], progress: Progress) -> None:
    """Say so, where a budget is asked for that the supernet was not trained near."""
    for budget_ms in near.budgets_ms:
        if not any(near.window(one).holds(budget_ms) for one in trained_ms):
            there = ", ".join(f"{one:.3f}" for one in trained_ms)
            told = f"the supernet was trained on networks near {there} ms; its scores say less near"
            progress.line(f"   {told} {budget_ms:.3f} ms (another --out trains one for it)")


@dataclass(frozen=True)
class Judge:
    """Scores architectures of a supernet's space by their inherited weights."""

    supernet: Supernet
    ranking: Ranking
    pictures: Pictures

    @property
    def importance(self) -> Importance:
        """The paper's scores of positions and stages."""
        return importance_by(self.supernet.probabilities())

    def images(self, architecture: Architecture) -> ImageSets:
        """The images at an architecture's input size."""
        return self.pictures.at(architecture.input_size[0])

    def inherited(self, architecture: Architecture) -> EfficientFormer:
        """A sub-network with the supernet's weights and batch-norm statistics of its own."""
        network = inherit(self.supernet, architecture, self.ranking)
        network.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        reestimate_batch_norm(network, self.images(architecture).train, architecture.input_size[0])
        return network

    def score(self, architecture: Architecture) -> Score:
        """Accuracy on the images set apart for the search."""
        images = self.images(architecture).search
        return evaluate(self.inherited(architecture), images, architecture.input_size[0])

    def final(self, network: EfficientFormer) -> Score:
        """Accuracy of a network on the validation images."""
        side = network.architecture.input_size[0]
        return evaluate(network, self.pictures.at(side).val, side)

    def of_file(self, path: Path, target: Target, images: Images, side: int) -> Score:
        """Accuracy of an exported file, run as the target says, on images for its side."""
        with contextlib.closing(ExportedFile(path, target)) as file:
            return score(file, images, side)

    def measured_importance(self, architecture: Architecture) -> Importance:
        """Of the blocks of a sub-network, by the Taylor score."""
        network, images = self.inherited(architecture), self.images(architecture).train
        return block_scores(network, architecture, images, architecture.input_size[0])


def rank(
    job: Job, supernet: Supernet, pictures: Pictures, folder: RunFolder, world: World | None = None
) -> Judge:
    """Rank the channels of every width, once for all processes and starts, and be ready to score."""
    if job.sampling.narrows:
        return Judge(supernet, Ranking(), pictures)  # its best channels come first
    world, path = world or World(), folder.file("ranking.safetensors")
    with world.main_first():
        if not path.exists():
            save_tensors(path, _ranked(job, supernet, pictures).order, {})
    return Judge(supernet, Ranking(read_tensors(path)), pictures)


def _ranked(job: Job, supernet: Supernet, pictures: Pictures) -> Ranking:
    images, total = pictures.at(job.input_size).train, dict[str, torch.Tensor]()
    for architecture in _of_each_kind(supernet.space):
        network = inherit(supernet, architecture)
        reestimate_batch_norm(network, images, job.input_size)
        for key, scores in channel_scores(network, images, job.input_size).items():
            total[key] = total[key] + scores if key in total else scores
    return Ranking.of(total)


def _of_each_kind(space: SearchSpace) -> list[Architecture]:
    """The largest network, and the same of each kind of map block: between them they hold every block."""
    found = [space.largest]
    for kind in space.map_kinds:
        network = space.largest
        for stage, position in space.positions():
            network = network.with_block(stage, position, kind)
        found.append(network)
    return found


def learn_network(
    job: Job,
    judge: Judge,
    architecture: Architecture,
    folder: RunFolder,
    progress: Progress,
    world: World | None = None,
) -> EfficientFormer:
    """Train a network of the space, from the supernet's weights, in all processes together."""
    world, side = world or World(), architecture.input_size[0]
    network, how = judge.inherited(architecture), recipe(job, job.epochs, side)
    train(
        network,
        held_batches(judge.images(architecture).train, how, world),
        how,
        folder.training_state(architecture),
        classes=architecture.num_classes,
        title="network",
        world=world,
        progress=progress,
    )
    world.share_buffers(network)
    return network.cpu()
