"""Gaussian noise on every image."""

import jax
import jax.numpy as jnp

from miue_jax import _flat_draws
from miue_jax._checks import check_number
from miue_jax.budget import to_unit
from miue_jax.defenses.base import Defense


def gaussian_noise(
    image_shape: tuple[int, ...], num_classes: int, *, sigma: float = 8.0
) -> Defense:
    """Adds independent normal noise to every value, anew in every step.

    It comes after crops and mirroring, the black of a crop's border included. The
    result is clipped to [0, 1]. MI-UE's evaluation adds it to the whole 8-bit image,
    and truncates the result to gray levels.

    Args:
      image_shape: unused.
      num_classes: unused.
      sigma: standard deviation in gray levels; 8, the usual radius of protections, is
        the evaluation of MI-UE.

    Returns:
      A defense whose `augment` leaves the labels alone.

    Raises:
      ValueError: if `sigma` is not a finite number of at least 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import defenses
      >>> defense = defenses.gaussian_noise((16, 16, 3), 2, sigma=8)
      >>> images, labels = jnp.ones((2, 16, 16, 3)), jnp.arange(2)
      >>> changed, targets = defense.augment(jax.random.key(0), images, labels)
      >>> changed.shape
      (2, 16, 16, 3)
    """
    del image_shape, num_classes
    check_number("gaussian_noise sigma", sigma, ">= 0")

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        # Draws in bfloat16 are 128 numbers whose mean is not 0.
        wide = jnp.promote_types(images.dtype, jnp.float32)
        noise = _flat_draws.draw(jax.random.normal, key, images.shape, wide)
        noise = noise.astype(images.dtype)
        return jnp.clip(images + to_unit(float(sigma)) * noise, 0, 1), labels

    return Defense(augment=augment)
