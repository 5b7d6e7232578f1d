"""How a surrogate sees an image and its perturbation: mirrored, shifted, normalized."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miue_jax.generators import surrogate
from miue_jax.generators.alternation_config import AlternationConfig
from miue_jax.image.augment import flip_where, random_crop
from miue_jax.train import sampling


class View(NamedTuple):
    """One random view of a batch, the same each time it is used.

    Attributes:
      carriers: (B, H, W, C), the images to which the perturbation is added.
      seen: perturbed carriers (B, H, W, C) -> the surrogate's input, differentiable.
    """

    carriers: jax.Array
    seen: Callable[[jax.Array], jax.Array]


def draw(
    key: jax.Array, shard: jax.Array, images: jax.Array, config: AlternationConfig
) -> View:
    """Draws a view of a batch, shard by shard.

    Args:
      key: a PRNG key.
      shard: (g,) int32, the indices of the device's shards.
      images: (g, b, H, W, C) float in [0, 1].
      config: its flip, crop and normalization.

    Returns:
      The view of the g times b images.
    """
    size = images.shape[1]
    flat = images.reshape(-1, *images.shape[2:])
    both = jax.vmap(jax.random.split)(sampling.shard_keys(key, shard))
    flip_keys, crop_keys = jnp.unstack(both, axis=1)
    toss = jax.vmap(lambda k: jax.random.bernoulli(k, shape=(size,)))
    mirrored = toss(flip_keys).reshape(-1)

    def seen(perturbed: jax.Array) -> jax.Array:
        if config.flip == "joint":
            perturbed = flip_where(mirrored, perturbed)
        if config.crop:
            crop = jax.vmap(lambda k, x: random_crop(k, x, padding=config.crop))
            shaped = perturbed.reshape(images.shape)
            perturbed = crop(crop_keys, shaped).reshape(flat.shape)
        return surrogate.normalize(perturbed, config)

    carriers = flip_where(mirrored, flat) if config.flip == "image_only" else flat
    return View(carriers, seen)
