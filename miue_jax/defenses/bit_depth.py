"""Fewer gray levels, as a purification."""

import jax
import numpy as np

from miue_jax._checks import check_number
from miue_jax.defenses.base import Defense, check_images


def bit_depth(image_shape: tuple[int, ...], num_classes: int, *, bits: int) -> Defense:
    """Keeps the highest bits of every value and sets the others to 0.

    Equal to `posterize` of Pillow's `ImageOps`: 2 bits leave the levels 0, 64, 128 and
    192, so that images get darker. Deterministic: the key is not used. Test images stay
    as they are, as in the publication (its code has an option to reduce them too).

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: unused.
      bits: how many of 8 are kept, an integer in [1, 8]. The field's tables use 2; 8
        changes nothing.

    Returns:
      A defense whose `purify` takes and returns (N, H, W, C) uint8.

    Raises:
      ValueError: if `bits` is not an integer in [1, 8].

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import defenses
      >>> defense = defenses.bit_depth((16, 16, 3), 2, bits=2)
      >>> images = np.zeros((4, 16, 16, 3), np.uint8)
      >>> labels = np.arange(4) % 2
      >>> defense.purify(jax.random.key(0), images, labels).shape
      (4, 16, 16, 3)

    References:
      Liu, Zhao, Larson, "Image shortcut squeezing", ICML 2023, section 4.
    """
    del num_classes
    check_number("bit_depth bits", bits, "> 0", whole=True)
    if bits > 8:
        raise ValueError(f"bit_depth bits is {bits}; allowed: 1 to 8")

    def purify(key: jax.Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del key, labels
        lost = 8 - int(bits)
        return check_images(images, image_shape) >> lost << lost

    return Defense(purify=purify)
