"""The adversary of robust surrogates: what raises the loss within a ball."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from miue_jax import _flat_draws, projected_gradient


def adversarial_change(
    keys: jax.Array,
    images: jax.Array,
    loss_fn: Callable[[jax.Array], jax.Array],
    *,
    radius: float,
    step_size: float,
    num_steps: int,
) -> jax.Array:
    """Lets an adversary raise a loss.

    It starts from uniform noise in its ball, clipped to [0, 1], and takes
    projected-gradient steps.

    Args:
      keys: (n,) PRNG keys, each of B / n images that follow one another.
      images: (B, H, W, C) float in [0, 1].
      loss_fn: images (B, H, W, C) -> the () loss to raise.
      radius: of the L-infinity ball, in [0, 1] units, > 0.
      step_size: in [0, 1] units.
      num_steps: number of steps; 0 leaves the noise.

    Returns:
      The change of the images, (B, H, W, C).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.generators.adversary import adversarial_change
      >>> images = jnp.full((2, 4, 4, 3), 0.5)
      >>> change = adversarial_change(
      ...     jax.random.split(jax.random.key(0), 2), images, jnp.sum,
      ...     radius=4 / 255, step_size=8 / 255, num_steps=1,
      ... )
      >>> bool(jnp.allclose(255 * change, 4))
      True
    """
    shape = (len(images) // len(keys), *images.shape[1:])

    def noise(key: jax.Array) -> jax.Array:
        return _flat_draws.draw(
            jax.random.uniform, key, shape, jnp.float32, -radius, radius
        )

    start = jax.vmap(noise)(keys).reshape(images.shape)
    return projected_gradient.pgd(
        loss_fn,
        images,
        projected_gradient.clip_to_images(images, start),
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
        ascend=True,
    )
