"""What the run learns: the supernet, what matters in it, and the network that was found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from efficientformer.architecture import Architecture
from efficientformer.data.batches import cached_side
from efficientformer.data.images import Images, decode, refuse_unreadable
from efficientformer.data.sources.folder import Split
from efficientformer.evaluation.score import Score, evaluate
from efficientformer.model.network import EfficientFormer
from efficientformer.model.weights import read_tensors, save_tensors
from efficientformer.pipeline.folder import RunFolder
from efficientformer.pipeline.job import Job
from efficientformer.progress import Progress
from efficientformer.search.importance import Importance, channel_scores
from efficientformer.search.inherit import Ranking, inherit
from efficientformer.search.space import SearchSpace
from efficientformer.search.supernet import Supernet
from efficientformer.training.batch_norm import reestimate_batch_norm
from efficientformer.training.batches import held_batches
from efficientformer.training.loop import train
from efficientformer.training.recipe import Recipe


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


def read_images(job: Job, split: Split, folder: RunFolder, progress: Progress) -> ImageSets:
    """Decode every image once, for this run's input size.

    Raises:
        InputError: if too many are unreadable.
    """
    read = partial(decode, side=cached_side(job.input_size), progress=progress)
    sets = ImageSets(
        read(split.train, cache=folder.work("train.images")),
        read(split.search, cache=folder.work("search.images")),
        read(split.val, cache=folder.work("val.images")),
    )
    refuse_unreadable((sets.train, sets.search, sets.val), job.max_unreadable)
    return sets


def recipe(job: Job, epochs: int) -> Recipe:
    """The job's recipe with a number of epochs, a tenth of them to warm up."""
    return Recipe(
        epochs,
        input_size=job.input_size,
        warmup_epochs=0.1 * epochs,
        batch_size=job.batch_size,
        learning_rate=job.learning_rate,
        augmentation=job.augmentation,
        precision=job.precision,
        seed=job.seed,
    )


def learn_supernet(
    job: Job, space: SearchSpace, images: Images, folder: RunFolder, progress: Progress
) -> Supernet:
    """Train the supernet, or read it where it is done."""
    path = folder.file("supernet.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        supernet = Supernet(space)
    if path.exists():
        supernet.load_state_dict(read_tensors(path))
        return supernet.eval()
    how = recipe(job, job.supernet_epochs)
    train(
        supernet,
        held_batches(images, how),
        how,
        folder.work("supernet-training.safetensors"),
        classes=space.largest.num_classes,
        title="supernet",
        prepare=lambda step, share: supernet.draw(step, share, job.sampling, job.seed),
        searched=tuple(supernet.alphas),
        progress=progress,
    )
    save_tensors(path, supernet.state_dict(), {"space": space.to_json(), "job": job.to_json()})
    return supernet


@dataclass(frozen=True)
class Judge:
    """Scores architectures of a supernet's space by their inherited weights."""

    supernet: Supernet
    ranking: Ranking
    images: ImageSets
    side: int

    @property
    def importance(self) -> Importance:
        """The paper's scores of positions and stages."""
        return Importance.of(self.supernet.probabilities())

    def inherited(self, architecture: Architecture) -> EfficientFormer:
        """A sub-network with the supernet's weights and batch-norm statistics of its own."""
        network = inherit(self.supernet, architecture, self.ranking)
        network.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        reestimate_batch_norm(network, self.images.train, self.side)
        return network

    def score(self, architecture: Architecture) -> Score:
        """Accuracy on the images set apart for the search."""
        return evaluate(self.inherited(architecture), self.images.search, self.side)


def rank(job: Job, supernet: Supernet, images: ImageSets) -> Judge:
    """Rank the channels of every width, once, and be ready to score."""
    if job.sampling.elastic:
        return Judge(supernet, Ranking(), images, job.input_size)  # its best channels come first
    total: dict[str, torch.Tensor] = {}
    for architecture in _of_each_kind(supernet.space):
        network = inherit(supernet, architecture)
        reestimate_batch_norm(network, images.train, job.input_size)
        for key, scores in channel_scores(network, images.train, job.input_size).items():
            total[key] = total[key] + scores if key in total else scores
    return Judge(supernet, Ranking.of(total), images, job.input_size)


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
    job: Job, judge: Judge, architecture: Architecture, folder: RunFolder, progress: Progress
) -> EfficientFormer:
    """Train a network of the space, from the supernet's weights."""
    network, how = judge.inherited(architecture), recipe(job, job.epochs)
    train(
        network,
        held_batches(judge.images.train, how),
        how,
        folder.training_state(architecture),
        classes=architecture.num_classes,
        title="network",
        progress=progress,
    )
    return network
