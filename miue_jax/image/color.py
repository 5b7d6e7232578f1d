"""Operations on the values of images: Pillow's, on the device, one amount per image.

All take images (B, H, W, C) float in [0, 1] and return the same shape, dtype and range.
An amount is a number, or (B,) of them, and may be traced. Where Pillow rounds or
truncates to 8 bits, these do not, except where an operation is defined on gray levels.
"""

import dm_pix
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# ITU-R BT.601, the luma of Pillow's mode "L".
_LUMA = (0.299, 0.587, 0.114)


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretches every channel of every image to all of [0, 1].

    Args:
      images: (B, H, W, C) float in [0, 1].

    Returns:
      The same shape; a channel of a single value is left alone.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.autocontrast(images)[0, 0, :, 0].round(2).tolist()
      [0.0, 0.5, 1.0]
    """
    low = jnp.min(images, (1, 2), keepdims=True)
    span = jnp.max(images, (1, 2), keepdims=True) - low
    constant = span == 0
    return jnp.where(constant, images, (images - low) / jnp.where(constant, 1, span))


def equalize(images: jax.Array) -> jax.Array:
    """Makes the histogram of every channel of every image as flat as Pillow does.

    A pixel goes to the share of pixels below it, in gray levels. Not differentiable.

    Args:
      images: (B, H, W, C) float in [0, 1], rounded to gray levels.

    Returns:
      The same shape; a channel with too few pixels beside its brightest value to fill
      255 levels is left alone.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.equalize(images).shape
      (1, 1, 3, 3)
    """
    levels = jnp.round(images * 255).astype(jnp.int32)
    channels = jnp.moveaxis(levels, -1, 1).reshape(-1, images[0, ..., 0].size)

    def level(values: jax.Array) -> jax.Array:
        histogram = jnp.zeros(256, jnp.int32).at[values].add(1)
        step = (values.size - histogram[jnp.max(values)]) // 255
        below = jnp.cumsum(histogram) - histogram
        table = (step // 2 + below) // jnp.maximum(step, 1)
        table = jnp.where(step == 0, jnp.arange(256), jnp.minimum(table, 255))
        return table[values]

    batch, height, width, depth = images.shape
    result = jax.vmap(level)(channels).reshape(batch, depth, height, width)
    return jnp.moveaxis(result, 1, -1).astype(images.dtype) / 255


def invert(images: jax.Array) -> jax.Array:
    """Makes negatives.

    Args:
      images: (B, H, W, C) float in [0, 1].

    Returns:
      The same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.invert(images)[0, 0, :, 0].round(2).tolist()
      [0.75, 0.5, 0.25]
    """
    return 1 - images


def posterize(images: jax.Array, bits: ArrayLike) -> jax.Array:
    """Keeps the highest bits of the gray levels. Not differentiable.

    Args:
      images: (B, H, W, C) float in [0, 1], rounded to gray levels.
      bits: bits kept, a whole number in [0, 8]; none makes an image black.

    Returns:
      The same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.posterize(images, 2).shape
      (1, 1, 3, 3)
    """
    step = 2 ** (8 - _per_image(bits, images))
    return jnp.floor(jnp.round(images * 255) / step) * step / 255


def solarize(images: jax.Array, threshold: ArrayLike) -> jax.Array:
    """Makes negatives of all values that are not below a threshold.

    Args:
      images: (B, H, W, C) float in [0, 1].
      threshold: in [0, 1]; above 1 changes nothing.

    Returns:
      The same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.solarize(images, 0.5).shape
      (1, 1, 3, 3)
    """
    return jnp.asarray(dm_pix.solarize(images, _per_image(threshold, images)))


def brightness(images: jax.Array, factor: ArrayLike) -> jax.Array:
    """Moves images away from black.

    Args:
      images: (B, H, W, C) float in [0, 1].
      factor: 0 gives black, 1 the image.

    Returns:
      The same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.brightness(images, 2.0)[0, 0, :, 0].round(2).tolist()
      [0.5, 1.0, 1.0]
    """
    return _blend(jnp.zeros_like(images), images, factor)


def contrast(images: jax.Array, factor: ArrayLike) -> jax.Array:
    """Moves images away from the mean of their luma.

    Args:
      images: (B, H, W, C) float in [0, 1], C 1 or 3.
      factor: 0 gives plain gray, 1 the image.

    Returns:
      The same shape.

    Raises:
      ValueError: if C is neither 1 nor 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.contrast(images, 0.5).shape
      (1, 1, 3, 3)
    """
    return _blend(jnp.mean(_luma(images), (1, 2), keepdims=True), images, factor)


def color(images: jax.Array, factor: ArrayLike) -> jax.Array:
    """Moves images away from their luma.

    Args:
      images: (B, H, W, C) float in [0, 1], C 1 or 3.
      factor: 0 gives gray, 1 the image.

    Returns:
      The same shape; with one channel the image.

    Raises:
      ValueError: if C is neither 1 nor 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.color(images, 0.5).shape
      (1, 1, 3, 3)
    """
    return _blend(_luma(images), images, factor)


def sharpness(images: jax.Array, factor: ArrayLike) -> jax.Array:
    """Moves images away from a smoothed version of them.

    It is a weighted mean of 3x3 pixels, 5 for the one in the middle and 1 for others.

    Args:
      images: (B, H, W, C) float in [0, 1].
      factor: 0 gives the smoothed version, 1 the image, 2 a sharper one.

    Returns:
      The same shape; the outermost pixels are left alone.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import color
      >>> images = jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1) * jnp.ones(3)
      >>> color.sharpness(images, 0.5).shape
      (1, 1, 3, 3)
    """
    height, width = images.shape[1:3]
    window = sum(
        images[:, i : height - 2 + i, j : width - 2 + j]
        for i in range(3)
        for j in range(3)
    )
    smooth = (window + 4 * images[:, 1:-1, 1:-1]) / 13
    return _blend(images.at[:, 1:-1, 1:-1].set(smooth), images, factor)


def _per_image(amount: ArrayLike, images: jax.Array) -> jax.Array:
    return jnp.asarray(amount, images.dtype).reshape(-1, 1, 1, 1)


def _blend(base: jax.Array, images: jax.Array, factor: ArrayLike) -> jax.Array:
    return jnp.clip(base + _per_image(factor, images) * (images - base), 0, 1)


def _luma(images: jax.Array) -> jax.Array:
    if images.shape[-1] == 1:
        return images
    if images.shape[-1] != 3:
        raise ValueError(
            f"luma is of images with 1 or 3 channels, these have {images.shape[-1]}"
        )
    return (images @ jnp.asarray(_LUMA, images.dtype))[..., None]
