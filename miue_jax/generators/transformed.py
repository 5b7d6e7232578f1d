"""Batches as views show them: drawn shard by shard, whatever the number of devices."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miue_jax.image import views
from miue_jax.image.views import ViewsConfig
from miue_jax.train import sampling


class Transformed(NamedTuple):
    """The views that a batch of B = g * b images has drawn.

    Attributes:
      see: images (B, H, W, C) float in [0, 1] -> as they are seen, of the same shape;
        differentiable, or with a gradient in place of one.
      targets: (B,) int32 labels, or (B, K) float32 class probabilities where views mix
        images.
    """

    see: Callable[[jax.Array], jax.Array]
    targets: jax.Array


def draw(
    key: jax.Array,
    shard: jax.Array,
    shape: tuple[int, ...],
    labels: jax.Array,
    config: ViewsConfig,
    *,
    num_classes: int,
    progress: jax.Array | float = 1.0,
) -> Transformed:
    """Draws the views of a batch, the same each time they are used.

    Args:
      key: a PRNG key.
      shard: (g,) int32, the indices of the device's shards, which draw independently.
      shape: (g, b, H, W, C) of the batch.
      labels: (g, b) int32.
      config: the settings; if every view is plain, nothing is drawn.
      num_classes: K.
      progress: () float, the share of the training that is done, in [0, 1].

    Returns:
      The views.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.generators import transformed
      >>> from miue_jax.image.views import ViewsConfig
      >>> seen = transformed.draw(
      ...     jax.random.key(0), jnp.arange(2), (2, 3, 8, 8, 3),
      ...     jnp.zeros((2, 3), jnp.int32), ViewsConfig(noise=1.0), num_classes=2,
      ... )
      >>> seen.see(jnp.zeros((6, 8, 8, 3))).shape, seen.targets.shape
      ((6, 8, 8, 3), (6,))
    """
    flat = labels.reshape(-1)
    if config.plain == 1:
        return Transformed(lambda images: images, flat)
    hardness = views.hardness(config, progress)
    draws = jax.vmap(lambda k: views.draw(k, shape[1], shape[2:], config, hardness))(
        sampling.shard_keys(key, shard)
    )

    def see(images: jax.Array) -> jax.Array:
        show = jax.vmap(lambda x, drawn: views.see(x, drawn, config))
        return show(images.reshape(shape), draws).reshape(images.shape)

    if not config.mixes:
        return Transformed(see, flat)
    targets = jax.vmap(lambda y, drawn: views.targets(y, drawn, config, num_classes))(
        labels, draws
    )
    return Transformed(see, targets.reshape(-1, num_classes))


def most(targets: jax.Array) -> jax.Array:
    """The classes of which images show most, for objectives that need one.

    Args:
      targets: (B,) int labels, or (B, K) class probabilities.

    Returns:
      (B,) int32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.generators import transformed
      >>> transformed.most(jnp.array([[0.4, 0.6]])).tolist()
      [1]
    """
    if targets.ndim == 1:
        return targets
    return jnp.argmax(targets, axis=1).astype(jnp.int32)
