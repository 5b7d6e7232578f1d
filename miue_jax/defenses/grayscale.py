"""Gray images in place of colored ones, as a purification."""

import jax
import numpy as np

from miue_jax.defenses.base import Defense, check_images

# The luma weights of ITU-R 601, 0.299, 0.587 and 0.114, in parts of 65536: with them
# the integers equal Pillow's.
_WEIGHTS = (19595, 38470, 7471)


def grayscale(image_shape: tuple[int, ...], num_classes: int) -> Defense:
    r"""Replaces the three channels of every training image by their luma.

    .. math:: Y = 0.299\, R + 0.587\, G + 0.114\, B,

    rounded to a gray level, three times. Equal to Pillow's mode "L". Deterministic: the
    key is not used. Test images stay in color, as in the publication (its code has an
    option to turn them too).

    Args:
      image_shape: (H, W, 3) of the images.
      num_classes: unused.

    Returns:
      A defense whose `purify` takes and returns (N, H, W, 3) uint8.

    Raises:
      ValueError: if the images have not three channels.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import defenses
      >>> defense = defenses.grayscale((16, 16, 3), 2)
      >>> images = np.zeros((4, 16, 16, 3), np.uint8)
      >>> labels = np.arange(4) % 2
      >>> defense.purify(jax.random.key(0), images, labels).shape
      (4, 16, 16, 3)

    References:
      Liu, Zhao, Larson, "Image shortcut squeezing", ICML 2023, section 4.
    """
    del num_classes
    if len(image_shape) != 3 or image_shape[-1] != 3:
        raise ValueError(
            f"grayscale works on images of shape (H, W, 3), got {tuple(image_shape)}"
        )

    def purify(key: jax.Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del key, labels
        images = check_images(images, image_shape)
        luma = np.full(images.shape[:-1], 1 << 15, np.uint32)
        for channel, weight in enumerate(_WEIGHTS):
            luma += images[..., channel] * np.uint32(weight)
        luma >>= 16
        return luma.astype(np.uint8)[..., None].repeat(3, axis=-1)

    return Defense(purify=purify)
