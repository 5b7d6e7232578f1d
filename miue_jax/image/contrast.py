"""Local contrast: how much of a change is hidden by what a picture shows anyway."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Pixels a side of a neighborhood.
_WINDOW = 5


def local_contrast(images: jax.Array) -> jax.Array:
    r"""The standard deviation of the pixels around each pixel.

    .. math:: \sigma_p^2 = \frac1C \sum_c \bigl(
        \overline{x_c^2} - \overline{x_c}^{\,2} \bigr),

    with means over the 5x5 pixels around p, the border repeated outward.

    Args:
      images: (B, H, W, C) float in [0, 1].

    Returns:
      (B, H, W, 1) float, in [0, 1/2].

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import contrast
      >>> edge = jnp.zeros((1, 8, 8, 1)).at[:, :, 4:].set(1.0)
      >>> [round(float(c), 2) for c in contrast.local_contrast(edge)[0, 4, :, 0]]
      [0.0, 0.0, 0.4, 0.49, 0.49, 0.4, 0.0, 0.0]
    """
    border = _WINDOW // 2
    sides = ((0, 0), (border, border), (border, border), (0, 0))
    values = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    padded = jnp.pad(values, sides, mode="edge")
    height, width = images.shape[1:3]
    # Relative to the pixel, so that no large numbers cancel where a picture is bright.
    around = jnp.stack(
        [
            padded[:, i : i + height, j : j + width] - values
            for i in range(_WINDOW)
            for j in range(_WINDOW)
        ]
    )
    variance = jnp.mean(jnp.var(around, axis=0), axis=-1, keepdims=True)
    return jnp.sqrt(variance).astype(images.dtype)


def radius_map(
    images: jax.Array, *, radius: ArrayLike, smooth_radius: ArrayLike
) -> jax.Array:
    r"""A radius for each pixel, smaller where the picture is smooth.

    .. math:: r_p = \min(r, \max(r_{\mathrm{smooth}}, \sigma_p)),

    the standard deviation of `local_contrast` between the two radii: noise is seen
    where it exceeds what is there.

    Args:
      images: (B, H, W, C) float in [0, 1].
      radius: the largest, r, a scalar in [0, 1] units.
      smooth_radius: the smallest, a scalar in [0, 1] units, at most `radius`.

    Returns:
      (B, H, W, 1) float in [0, 1] units, for `projected_gradient.pgd`.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.image import contrast
      >>> even = jnp.full((1, 8, 8, 3), 0.5)
      >>> radii = contrast.radius_map(even, radius=8 / 255, smooth_radius=2 / 255)
      >>> radii.shape, round(255 * float(radii.max()), 3)
      ((1, 8, 8, 1), 2.0)
    """
    return jnp.clip(local_contrast(images), smooth_radius, radius)
