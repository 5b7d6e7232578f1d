"""JPEG compression as a purification."""

import numbers

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.budget import to_unit
from miue_jax.defenses.base import Defense, check_images
from miue_jax.image import jpeg as codec

# The size of a block of 4:2:0 JPEG; smaller images would be mostly padding.
_SMALLEST = 16
# Values of a block of images that go through the device together.
_AT_ONCE = 1 << 21


def jpeg(image_shape: tuple[int, ...], num_classes: int, *, quality: int) -> Defense:
    """Compresses every training image once and decodes it again, on the device.

    Equal to Pillow's default, with color subsampled 4:2:0, to the last bit; see
    `miue_jax.image.jpeg`. Deterministic: the key is not used. Test images stay as they
    are, as in the publication (its code has an option to compress them too). DUNE's
    evaluation compresses after crops and mirroring, on other blocks, which is another
    defense.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: unused.
      quality: libjpeg's quality, an integer in [1, 100]; 10 is usual as a defense.

    Returns:
      A defense whose `purify` takes and returns (N, H, W, C) uint8.

    Raises:
      ValueError: if `quality` is not an integer in [1, 100], C other than 1 or 3, or a
        side below 16 pixels.

    Example:
      >>> import jax, numpy as np
      >>> from miue_jax import defenses
      >>> defense = defenses.jpeg((16, 16, 3), 2, quality=10)
      >>> images = np.zeros((4, 16, 16, 3), np.uint8)
      >>> labels = np.arange(4) % 2
      >>> defense.purify(jax.random.key(0), images, labels).shape
      (4, 16, 16, 3)

    References:
      Liu, Zhao, Larson, "Image shortcut squeezing", ICML 2023, section 4.
    """
    del num_classes
    _check(image_shape, quality)
    size = max(1, _AT_ONCE // int(np.prod(image_shape)))

    @jax.jit
    def compress(block: jax.Array) -> jax.Array:
        coded = codec.jpeg(to_unit(block.astype(jnp.float32)), quality=quality)
        return jnp.rint(255 * coded).astype(jnp.uint8)

    def purify(key: jax.Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del key, labels
        images = check_images(images, image_shape)
        result = np.empty_like(images)
        for start in range(0, len(images), size):
            block = images[start : start + size]
            # One shape, so that the last block is not compiled again.
            padding = min(size, len(images)) - len(block)
            padded = np.pad(block, ((0, padding), (0, 0), (0, 0), (0, 0)))
            result[start : start + size] = np.asarray(compress(padded))[: len(block)]
        return result

    return Defense(purify=purify)


def _check(image_shape: tuple[int, ...], quality: int) -> None:
    whole = isinstance(quality, numbers.Integral) and not isinstance(quality, bool)
    if not whole or not 1 <= quality <= 100:
        raise ValueError(
            f"JPEG quality must be an integer in [1, 100], got {quality!r}"
        )
    if len(image_shape) != 3 or image_shape[-1] not in (1, 3):
        raise ValueError(
            f"JPEG works on images of shape (H, W, 1 or 3), got {tuple(image_shape)}"
        )
    if min(image_shape[:2]) < _SMALLEST:
        raise ValueError(
            f"JPEG needs images of at least {_SMALLEST}x{_SMALLEST} pixels, got "
            f"{image_shape[1]}x{image_shape[0]}"
        )
