"""Augmentations of a batch: a key and images in, images out.

Random numbers are drawn shard by shard by the callers (see `sampling`), so that a
result does not depend on the number of devices.
"""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def random_crop(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pads every image with zeros and crops its size at a random place.

    Args:
      key: a PRNG key.
      images: (B, H, W, C) float in [0, 1].
      padding: pixels added on each side.

    Returns:
      (B, H, W, C), of the same dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import augment
      >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1) / 4
      >>> augment.random_crop(jax.random.key(0), images, padding=1).shape
      (1, 1, 4, 1)
    """
    widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, widths)
    keys = jax.random.split(key, len(images))
    crop = jax.vmap(
        lambda k, x: jnp.asarray(dm_pix.random_crop(k, x, images.shape[1:]))
    )
    return crop(keys, padded)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flips every image left to right with probability one half.

    Args:
      key: a PRNG key.
      images: (B, H, W, C) float in [0, 1].

    Returns:
      (B, H, W, C), of the same dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import augment
      >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1) / 4
      >>> augment.random_flip(jax.random.key(0), images).shape
      (1, 1, 4, 1)
    """
    return flip_where(jax.random.bernoulli(key, shape=images.shape[:1]), images)


def flip_where(mirrored: jax.Array, images: jax.Array) -> jax.Array:
    """Flips the chosen images left to right.

    Args:
      mirrored: (B,) bool.
      images: (B, H, W, C).

    Returns:
      (B, H, W, C), of the same dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import augment
      >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1) / 4
      >>> augment.flip_where(jnp.array([True]), images).ravel().tolist()
      [0.75, 0.5, 0.25, 0.0]
    """
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def chain(*augmentations: Augmentation) -> Augmentation:
    """Composes augmentations from left to right, each with a key of its own.

    Args:
      *augmentations: functions (key, images) -> images.

    Returns:
      A function (key, images) -> images.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import augment
      >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1) / 4
      >>> both = augment.chain(augment.random_flip, augment.random_flip)
      >>> both(jax.random.key(0), images).shape
      (1, 1, 4, 1)
    """

    def apply(key: jax.Array, images: jax.Array) -> jax.Array:
        for i, augmentation in enumerate(augmentations):
            images = augmentation(jax.random.fold_in(key, i), images)
        return images

    return apply


def crop_and_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Applies the field's standard augmentation: a crop after padding by 4, and a flip.

    Args:
      key: a PRNG key.
      images: (B, H, W, C) float in [0, 1].

    Returns:
      (B, H, W, C), of the same dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.image import augment
      >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1) / 4
      >>> augment.crop_and_flip(jax.random.key(0), images).shape
      (1, 1, 4, 1)
    """
    return chain(random_crop, random_flip)(key, images)
