"""The network of a protector: a picture and a code become a perturbation."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

# Pixels of a cell: the network works on cells, with their pixels as channels.
CELL = 4
# Periods in cells of the waves that tell the network where a cell lies. Textures are
# made of them, so that a code looks the same wherever a picture is cropped.
_PERIODS = (2, 3, 4, 6, 8)


class UNet(nn.Module):
    """Maps pictures and codes to perturbations in [-1, 1].

    Two scales, with cells of 4x4 pixels as the finer one. The code scales and shifts
    the channels of every layer.

    Attributes:
      num_codes: K.
      width: channels of the finer scale; the coarser one has twice as many.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import protector
      >>> net = protector.UNet(num_codes=4, width=8)
      >>> images, codes = jnp.zeros((2, 32, 48, 3)), jnp.array([0, 3])
      >>> jax.eval_shape(net.init, jax.random.key(0), images, codes)["params"][
      ...     "Embed_0"
      ... ]["embedding"].shape
      (4, 8)
    """

    num_codes: int
    width: int = 48

    @nn.compact
    def __call__(self, images: jax.Array, codes: jax.Array) -> jax.Array:
        """Maps images (B, H, W, 3) in [0, 1] and codes (B,) int32 to (B, H, W, 3).

        Sides that are no multiples of 8 are padded by their edges.
        """
        height, width = images.shape[1:3]
        step = 2 * CELL
        pads = [(0, 0), (0, -height % step), (0, -width % step), (0, 0)]
        cells = space_to_depth(jnp.pad(2 * images - 1, pads, mode="edge"))
        waves = jnp.broadcast_to(
            _waves(*cells.shape[1:3]),
            (len(cells), *cells.shape[1:3], 4 * len(_PERIODS)),
        )
        code = nn.Embed(
            self.num_codes, self.width, embedding_init=nn.initializers.normal(1.0)
        )(codes)

        def block(x: jax.Array, features: int, strides: int = 1) -> jax.Array:
            x = nn.Conv(features, (3, 3), strides, padding=1)(x)
            x = nn.GroupNorm(num_groups=8, use_scale=False, use_bias=False)(x)
            scale = nn.Dense(features)(code)[:, None, None]
            shift = nn.Dense(features)(code)[:, None, None]
            return nn.gelu((1 + scale) * x + shift)

        fine = block(jnp.concatenate([cells, waves], -1), self.width)
        fine = fine + block(fine, self.width)
        coarse = block(fine, 2 * self.width, 2)
        coarse = coarse + block(coarse, 2 * self.width)
        up = jnp.repeat(jnp.repeat(coarse, 2, 1), 2, 2)
        x = block(jnp.concatenate([fine, up], -1), self.width)
        x = nn.Conv(3 * CELL**2, (1, 1))(x)
        return depth_to_space(jnp.tanh(x))[:, :height, :width]


def _waves(height: int, width: int) -> jax.Array:
    """Sines and cosines of the place of each cell: (height, width, 4 * periods)."""
    periods = jnp.array(_PERIODS, jnp.float32)
    down = 2 * jnp.pi * jnp.arange(height)[:, None, None] / periods
    across = 2 * jnp.pi * jnp.arange(width)[None, :, None] / periods
    shape = (height, width, len(_PERIODS))
    parts = (jnp.sin(down), jnp.cos(down), jnp.sin(across), jnp.cos(across))
    return jnp.concatenate([jnp.broadcast_to(x, shape) for x in parts], -1)


def space_to_depth(images: jax.Array) -> jax.Array:
    """Cells of pixels as channels.

    Args:
      images: (B, H, W, C), H and W multiples of 4.

    Returns:
      (B, H / 4, W / 4, 16 C).

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.protector import network
      >>> network.space_to_depth(jnp.zeros((1, 32, 48, 3))).shape
      (1, 8, 12, 48)
    """
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // CELL, CELL, width // CELL, CELL, channels)
    return lax.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(
        batch, height // CELL, width // CELL, CELL**2 * channels
    )


def depth_to_space(cells: jax.Array) -> jax.Array:
    """The inverse of `space_to_depth`.

    Args:
      cells: (B, h, w, 16 C).

    Returns:
      (B, 4 h, 4 w, C).

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.protector import network
      >>> images = jnp.arange(64.0).reshape(1, 8, 8, 1)
      >>> cells = network.space_to_depth(images)
      >>> bool((network.depth_to_space(cells) == images).all())
      True
    """
    batch, height, width, channels = cells.shape
    channels //= CELL**2
    x = cells.reshape(batch, height, width, CELL, CELL, channels)
    return lax.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(
        batch, height * CELL, width * CELL, channels
    )
