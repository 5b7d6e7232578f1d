"""RandAugment: a few random operations on every image, all of one magnitude."""

import jax

from miue_jax._checks import check_number
from miue_jax.defenses.base import Defense
from miue_jax.image import rand_augment_draws
from miue_jax.image.operations import apply_chosen
from miue_jax.image.rand_augment_draws import LARGEST, NAMES


def rand_augment(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    num_ops: int = 2,
    magnitude: float = 9.0,
) -> Defense:
    """Applies random operations to every training image, anew in every step.

    Each image draws `num_ops` times from 14 operations: identity, autocontrast,
    equalize, and, scaled by m = magnitude / 30, rotate by 30 m degrees, shear by 0.3 m,
    translate by 150/331 m of the side (whole pixels), brightness, contrast, color and
    sharpness by the factor 1 plus 0.9 m, posterize to 8 - 4 m bits (rounded), solarize
    at 256 (1 - m) gray levels. Rotations, shears, translations and the four factors
    have random signs. Shears leave the middle of an image in place, and what is drawn
    anew is bilinear; the usual implementation shears from a corner and takes the
    nearest pixel.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: unused.
      num_ops: operations an image, one after another.
      magnitude: of all of them, in [0, 30].

    Returns:
      A defense whose `augment` leaves the labels alone.

    Raises:
      ValueError: if `num_ops` is not a whole number above 0, `magnitude` not in
        [0, 30], or C neither 1 nor 3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import defenses
      >>> defense = defenses.rand_augment((16, 16, 3), 2)
      >>> images, labels = jnp.ones((2, 16, 16, 3)), jnp.arange(2)
      >>> changed, targets = defense.augment(jax.random.key(0), images, labels)
      >>> changed.shape
      (2, 16, 16, 3)

    References:
      Cubuk, Zoph, Shlens, Le, "RandAugment: practical automated data augmentation with
      a reduced search space", NeurIPS 2020, section 3.
    """
    del num_classes
    check_number("rand_augment num_ops", num_ops, "> 0", whole=True)
    check_number("rand_augment magnitude", magnitude, ">= 0")
    if magnitude > LARGEST:
        raise ValueError(
            f"rand_augment magnitude is {magnitude!r}; allowed: numbers in "
            f"[0, {LARGEST}]"
        )
    if image_shape[-1] not in (1, 3):
        raise ValueError(
            "rand_augment works on images with 1 or 3 channels, these have "
            f"{image_shape[-1]}"
        )

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def once(step: jax.Array, images: jax.Array) -> jax.Array:
            choice, amounts = rand_augment_draws.draw(
                jax.random.fold_in(key, step), len(images), magnitude, image_shape
            )
            return apply_chosen(images, NAMES, choice, amounts)

        return jax.lax.fori_loop(0, num_ops, once, images), labels

    return Defense(augment=augment)
