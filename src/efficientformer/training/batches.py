"""A recipe's batches out of decoded images, for one process of those that train together."""

from __future__ import annotations

from efficientformer.data.held import Held
from efficientformer.data.images import Images
from efficientformer.data.order import Order
from efficientformer.data.sources.base import Source
from efficientformer.training.distributed import World
from efficientformer.training.recipe import Recipe


def order_of(recipe: Recipe, images: Images | Source) -> Order:
    """Which of the images each step takes."""
    blocks = () if isinstance(images, Images) else images.blocks
    return Order(len(images), recipe.batch_size, recipe.augmentation.repeats, recipe.seed, blocks)


def held_batches(images: Images, recipe: Recipe, world: World | None = None) -> Held:
    """Batches of images that are kept on the device."""
    world = world or World()
    return Held(
        images,
        order_of(recipe, images),
        recipe.augmentation,
        recipe.input_size,
        recipe.seed,
        world.rank,
        world.size,
        world.device,
    )
