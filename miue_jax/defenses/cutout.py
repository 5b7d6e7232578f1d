"""Cutout: a black square somewhere in every image."""

import jax
import jax.numpy as jnp

from miue_jax._checks import check_number
from miue_jax.defenses.base import Defense
from miue_jax.image.box import random_box


def cutout(
    image_shape: tuple[int, ...], num_classes: int, *, size: int = 16
) -> Defense:
    """Blackens a square in every training image, anew in every step.

    The middle of the square is uniform over the pixels, so what lies beyond the border
    is cut off and fewer than size^2 pixels are lost on average.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: unused.
      size: side of the square in pixels; 16 is the field's choice for 32x32 images.

    Returns:
      A defense whose `augment` leaves the labels alone.

    Raises:
      ValueError: if `size` is not a whole number above 0 or larger than a side.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import defenses
      >>> defense = defenses.cutout((16, 16, 3), 2, size=4)
      >>> images, labels = jnp.ones((2, 16, 16, 3)), jnp.arange(2)
      >>> changed, targets = defense.augment(jax.random.key(0), images, labels)
      >>> changed.shape
      (2, 16, 16, 3)

    References:
      DeVries, Taylor, "Improved regularization of convolutional neural networks with
      cutout", arXiv:1708.04552, section 3.
    """
    del num_classes
    check_number("cutout size", size, "> 0", whole=True)
    height, width = image_shape[:2]
    if size > min(height, width):
        raise ValueError(
            f"cutout size is {size}, which is more than a side of {width}x{height} "
            f"images; allowed: at most {min(height, width)}"
        )

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        row_key, column_key = jax.random.split(key)
        square = random_box(
            row_key, column_key, len(images), (height, width), (size, size)
        )
        return jnp.where(square[..., None], 0, images), labels

    return Defense(augment=augment)
