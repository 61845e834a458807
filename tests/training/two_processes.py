"""What two processes do together, for test_distributed.py; run by torchrun.

    torchrun --nproc-per-node 2 -m tests.training.two_processes FOLDER

Each training is done whole, then stopped in the middle of an epoch and taken up by fresh objects. The first
process writes what came out to FOLDER/results.json.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import efficientformer  # noqa: F401 - before timm: it repairs torchvision
from efficientformer.data.augmentation import Augmentation
from efficientformer.data.images import Images
from efficientformer.search.space.search_space import OPEN_KINDS, SearchSpace
from efficientformer.search.supernet.draws import Sampling
from efficientformer.search.supernet.supernet import Supernet
from efficientformer.training import checkpoint, loop
from efficientformer.training.batches import held_batches
from efficientformer.training.distributed import World, joined
from efficientformer.training.loop import Prepare, train
from efficientformer.training.recipe import Recipe
from efficientformer.training.sync_norm import synchronised
from tests.strategies import randomised, tiny

SIDE, CLASSES = 32, 3
RECIPE = Recipe(
    epochs=2,
    input_size=SIDE,
    batch_size=8,
    learning_rate=1e-2,
    ema=0.9,
    drop_path=0.1,
    augmentation=Augmentation(erase=0.3, mixup=0.2, cutmix=0.5, rand_augment="rand-m5-mstd0.5-inc1"),
)


class StopError(Exception):
    """Stands for a kill."""


def images(count: int = 32) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 37, 37, 3), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % CLASSES, ())


def network() -> nn.Module:
    return randomised(tiny())


SOFT, ELASTIC = Sampling(), Sampling(paths="sampled", elastic=True)


def supernet() -> nn.Module:
    torch.manual_seed(0)
    return Supernet(SearchSpace(tiny(distilled=False)))


def elastic_supernet() -> nn.Module:
    """One that leaves weights out: each step runs one path of each position, at some width."""
    torch.manual_seed(0)
    return Supernet(
        SearchSpace(tiny(distilled=False), kinds=OPEN_KINDS, expansions=(1, 2), width_step=4, min_width=4)
    )


def trained(
    make: Callable[[], nn.Module], recipe: Recipe, state: Path, world: World, stop_at: int = -1
) -> nn.Module:
    """A model after its training; `stop_at` ends it before that step, as a kill would."""
    model = make()
    searched = tuple(model.alphas) if isinstance(model, Supernet) else ()

    def prepare(step: int, share: float) -> None:
        if step == stop_at:
            raise StopError
        if isinstance(model, Supernet):
            sampling = ELASTIC if model.space.expansions else SOFT
            model.draw(step, share, sampling, recipe.seed)

    told: Prepare = prepare
    data = held_batches(images(), recipe, world)
    train(
        model, data, recipe, state, classes=CLASSES, title="t", world=world, prepare=told, searched=searched
    )
    return model


def resumed_exactly(make: Callable[[], nn.Module], recipe: Recipe, folder: Path, world: World) -> bool:
    """Whether a training stopped at step 3 of 8, in the middle of an epoch, ends with the same bits."""
    whole = trained(make, recipe, folder / "whole.safetensors", world)
    try:
        trained(make, recipe, folder / "parted.safetensors", world, stop_at=3)
    except StopError:
        world.wait()  # the checkpoint of step 3 is the first process's
    parted = trained(make, recipe, folder / "parted.safetensors", world)
    mine, theirs = whole.state_dict(), parted.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def agree(model: nn.Module, world: World) -> bool:
    """Whether all processes hold the same parameters."""
    flat = torch.cat([parameter.detach().flatten().double() for parameter in model.parameters()])
    return torch.allclose(world.sum(flat) / world.size, flat, rtol=0, atol=0)


def sync_norm_error(world: World) -> float:
    """Largest difference between two processes of parts of a batch and one of the whole, gradients too."""
    torch.manual_seed(1)
    alone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)
    )
    together = copy.deepcopy(alone)
    synchronised(together, torch.device("cpu"))
    parallel = world.wrapped(together)
    x, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 0, 1, 0, 1])
    mine = slice(0, 2) if world.main else slice(2, 6)  # unequal parts
    F.cross_entropy(alone(x), labels, reduction="sum").backward()
    (F.cross_entropy(parallel(x[mine]), labels[mine], reduction="sum") * world.size).backward()
    pairs = [(a.grad, b.grad) for a, b in zip(alone.parameters(), together.parameters(), strict=True)]
    pairs += list(zip(alone.buffers(), together.buffers(), strict=True))
    return max(
        float((one - other).abs().max()) for one, other in pairs if one is not None and other is not None
    )


def seen_together(world: World) -> list[int]:
    """The numbers of the images that both processes drew in the first two steps, in order."""
    data, drawn = held_batches(images(), RECIPE, world), []
    for step in range(2):
        numbers = torch.full((8,), 0)
        own = data.batch(step).numbers
        numbers[own - 8 * step] = own
        drawn += world.sum(numbers).tolist()
    return drawn


def alone_or_together(world: World, folder: Path) -> float:
    """How far one process's training ends from both's with sync norm, over how far it went."""
    recipe = dataclasses.replace(RECIPE, epochs=1, sync_norm=True, drop_path=0.0, augmentation=Augmentation())
    both = trained(network, recipe, folder / "both.safetensors", world)
    one = trained(network, recipe, folder / f"one-{world.rank}.safetensors", World())
    begun, ended, together = (
        torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        for model in (network(), one, both)
    )
    return ((ended - together).norm() / (ended - begun).norm()).item()


def main(folder: Path) -> None:
    """All of it."""
    torch.set_num_threads(1)
    loop.CHECKPOINT_S, checkpoint.SAVING_SHARE = 0, float("inf")  # every step is saved
    with joined("cpu") as world:
        (folder / "net").mkdir(exist_ok=True)
        (folder / "super").mkdir(exist_ok=True)
        world.wait()
        halved = dataclasses.replace(RECIPE, accumulate=2, sync_norm=True)
        model = trained(network, RECIPE, folder / "agree.safetensors", world)
        results = {
            "agree": agree(model, world),
            "network": resumed_exactly(network, halved, folder / "net", world),
            "supernet": resumed_exactly(supernet, RECIPE, folder / "super", world),
            "elastic": resumed_exactly(elastic_supernet, RECIPE, folder / "elastic", world),
            "sync_norm_error": sync_norm_error(world),
            "numbers": seen_together(world),
            "alone_or_together": alone_or_together(world, folder),
        }
        if world.main:
            (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
