"""How visible a perturbation is: PSNR and SSIM between two sets of 8-bit images."""

import functools
import math
from collections.abc import Callable
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.budget import to_unit
from miue_jax.image import ssim_window

# Values that are worked on at once, some 40 bytes each: 512 images of 32x32 pixels.
_CHUNK = 512 * 32 * 32 * 3


def psnr(clean: np.ndarray, images: np.ndarray) -> float:
    r"""Mean peak signal-to-noise ratio of the images that differ from the clean ones.

    .. math:: \mathrm{PSNR}(x, x') = -10 \log_{10} \mathrm{mean}((x - x')^2)

    for pixels in [0, 1]. Images that were left alone have an infinite ratio and would
    hide the others, so they do not count.

    Args:
      clean: (N, H, W, C) uint8.
      images: the same shape, uint8.

    Returns:
      Decibels; infinity if no image differs.

    Raises:
      ValueError: if shapes or types differ from the above.

    Example:
      >>> import numpy as np
      >>> from miue_jax.image.quality import psnr
      >>> clean = np.zeros((1, 16, 16, 3), np.uint8)
      >>> round(psnr(clean, clean + np.uint8(8)), 2)
      30.07
    """
    values = _per_image(_psnr, *_changed(clean, images))
    return float(np.mean(values, dtype=np.float64)) if values.size else float("inf")


def ssim(clean: np.ndarray, images: np.ndarray) -> float:
    """Mean structural similarity of the images that differ from the clean ones.

    Gaussian window of 11 pixels and standard deviation 1.5 without padding, mean over
    the channels.

    Args:
      clean: (N, H, W, C) uint8, H and W at least 11.
      images: the same shape, uint8.

    Returns:
      A number up to 1; 1 if no image differs.

    Raises:
      ValueError: if shapes or types differ from the above.

    Example:
      >>> import numpy as np
      >>> from miue_jax.image.quality import ssim
      >>> clean = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
      >>> round(ssim(clean, clean), 4)
      1.0

    References:
      Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility
      to structural similarity", 2004, section III.
    """
    clean, images = _changed(clean, images)
    if min(clean.shape[1:3]) < ssim_window.SIZE:
        raise ValueError(
            f"SSIM needs images of at least {ssim_window.SIZE}x{ssim_window.SIZE} "
            f"pixels, got {clean.shape[2]}x{clean.shape[1]}"
        )
    values = _per_image(_ssim, clean, images)
    return float(np.mean(values, dtype=np.float64)) if values.size else 1.0


def _ssim(clean: jax.Array, images: jax.Array) -> jax.Array:
    # Two banded matrix products: ten times faster on the CPU than the convolutions
    # that dm_pix.ssim would choose, equal to 2e-7.
    rows, columns = (
        ssim_window.blur_matrix(clean.shape[1]),
        ssim_window.blur_matrix(clean.shape[2]),
    )

    def blur(x: jax.Array) -> jax.Array:
        precision = jax.lax.Precision.HIGHEST
        return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x, precision=precision)

    # Its annotation has the filter's arguments but not their batch.
    filter_fn: Any = blur
    similarity = dm_pix.ssim(
        clean,
        images,
        filter_size=ssim_window.SIZE,
        filter_sigma=ssim_window.SIGMA,
        filter_fn=filter_fn,
    )
    return jnp.asarray(similarity)


def _changed(clean: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    clean, images = np.asarray(clean), np.asarray(images)
    if clean.shape != images.shape or clean.ndim != 4:
        raise ValueError(
            f"both must have one shape (N, H, W, C), got {clean.shape} and "
            f"{images.shape}"
        )
    if clean.dtype != np.uint8 or images.dtype != np.uint8:
        raise ValueError(f"both must be uint8, got {clean.dtype} and {images.dtype}")
    changed = (clean != images).any(axis=(1, 2, 3))
    if changed.all():
        return clean, images
    return clean[changed], images[changed]


def _psnr(clean: jax.Array, images: jax.Array) -> jax.Array:
    return jnp.asarray(dm_pix.psnr(clean, images))


def _per_image(
    metric: Callable[[jax.Array, jax.Array], jax.Array],
    clean: np.ndarray,
    images: np.ndarray,
) -> np.ndarray:
    size = min(max(1, _CHUNK // max(1, math.prod(clean.shape[1:]))), len(clean))

    def padded(chunk: np.ndarray) -> np.ndarray:
        # One shape, so that the last chunk is not compiled again.
        return np.pad(chunk, [(0, size - len(chunk)), (0, 0), (0, 0), (0, 0)])

    values = np.empty(len(clean), np.float32)
    for start in range(0, len(clean), size or 1):
        part = slice(start, start + size)
        count = len(clean[part])
        values[part] = _compiled(metric, padded(clean[part]), padded(images[part]))[
            :count
        ]
    return values


@functools.partial(jax.jit, static_argnums=0)
def _compiled(
    metric: Callable[[jax.Array, jax.Array], jax.Array],
    clean: jax.Array,
    images: jax.Array,
) -> jax.Array:
    return metric(
        to_unit(clean.astype(jnp.float32)), to_unit(images.astype(jnp.float32))
    )
