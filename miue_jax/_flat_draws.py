"""Draws of arrays, as rows of numbers: a loop over one axis compiles fastest.

XLA's CPU backend writes the generator of random bits as loops over all axes of the
result. Of four axes they took it a second of processor time for every draw (jax 0.10.2,
AVX-512), of one axis a fifth; a network has a draw for each of its kernels.
"""

import math
from collections.abc import Callable

import jax


def draw(
    sampler: Callable[..., jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    *arguments: object,
) -> jax.Array:
    """Draws an array of any shape as a row of numbers.

    Args:
      sampler: of `jax.random`, called with a key, a shape and the arguments.
      key: a PRNG key.
      shape: of the array.
      *arguments: of the sampler, after the shape.

    Returns:
      What the sampler returns for the shape, to the last bit.

    Example:
      >>> import jax
      >>> from miue_jax import _flat_draws
      >>> key = jax.random.key(0)
      >>> drawn = _flat_draws.draw(jax.random.normal, key, (2, 3))
      >>> bool((drawn == jax.random.normal(key, (2, 3))).all())
      True
    """
    return sampler(key, (math.prod(shape),), *arguments).reshape(shape)
