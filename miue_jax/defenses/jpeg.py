"""JPEG compression as a purification, through Pillow."""

import concurrent.futures
import io

import jax
import numpy as np
from PIL import Image

from miue_jax.defenses.base import Defense

# The size of a block of 4:2:0 JPEG; smaller images would be mostly padding.
_SMALLEST = 16


def jpeg_pillow(quality: int) -> Defense:
    """Compresses every training image once and decodes it again.

    Colour is subsampled 4:2:0, which is what Pillow and nearly all cameras and web
    sites do. Deterministic: the key is not used.

    Args:
      quality: libjpeg's quality, an integer in [1, 95]; 10 is usual as a defence.

    Returns:
      A defence whose `purify` takes and returns (N, H, W, C) uint8; it raises
      ValueError for another type, C other than 1 or 3, or a side below 16 pixels.

    Raises:
      ValueError: if `quality` is not an integer in [1, 95].

    References:
      Liu, Zhao, Larson, "Image shortcut squeezing", ICML 2023, section 4.
    """
    if isinstance(quality, bool) or not isinstance(quality, int):
        raise ValueError(f"JPEG quality must be an integer in [1, 95], got {quality!r}")
    if not 1 <= quality <= 95:
        raise ValueError(f"JPEG quality must be an integer in [1, 95], got {quality}")

    def purify(key: jax.Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del key, labels
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise ValueError(f"JPEG works on uint8 images, got {images.dtype}")
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"JPEG works on images of shape (N, H, W, 1 or 3), got {images.shape}"
            )
        if min(images.shape[1:3]) < _SMALLEST:
            raise ValueError(
                f"JPEG needs images of at least {_SMALLEST}x{_SMALLEST} pixels, got "
                f"{images.shape[2]}x{images.shape[1]}"
            )
        result = np.empty_like(images)

        def compress(index: int) -> None:
            result[index] = _round_trip(images[index], quality)

        # Pillow releases the interpreter lock while it encodes and decodes.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for _ in pool.map(compress, range(len(images))):
                pass
        return result

    return Defense(purify=purify)


def _round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    grey = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if grey else image).save(
        buffer, "JPEG", quality=quality, subsampling="4:2:0"
    )
    with Image.open(buffer) as decoded:
        return np.asarray(decoded).reshape(image.shape)
