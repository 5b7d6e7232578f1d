"""Splits of the samples, and values of score matrices on the part that was held out."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

_Values = TypeVar("_Values")


class HeldOut(NamedTuple):
    """The value of a function of score matrices on held-out samples.

    Attributes:
      value: () float, its mean over blocks.
      standard_error: () float, by the infinitesimal jackknife: the root of the sum of
        squared influences of the samples, over their number. It is that of the
        evaluation for the critic at hand and leaves out that training varies.
      block_size: K, samples in a block.
      num_samples: samples in all blocks.
    """

    value: jax.Array
    standard_error: jax.Array
    block_size: int
    num_samples: int


def split(
    key: jax.Array, size: int, fraction: float, *, minimum: int, purpose: str
) -> tuple[jax.Array, jax.Array]:
    """Splits indices at random.

    Args:
      key: random key.
      size: number of samples.
      fraction: share of the second part.
      minimum: fewest samples allowed in the first part; the second needs two.
      purpose: of the second part, for the message.

    Returns:
      Indices of the first part and of the second.

    Raises:
      ValueError: if a part is too small.
    """
    second = round(size * fraction)
    first = size - second
    if first < minimum or second < 2:
        raise ValueError(
            f"of {size} samples {first} are left to train on and {second} for "
            f"{purpose}; at least {minimum} and 2 are needed"
        )
    order = jax.random.permutation(key, size)
    return order[:first], order[first:]


def block_values(
    function: Callable[[jax.Array, jax.Array], _Values],
    x: jax.Array,
    y: jax.Array,
    *,
    batch_size: int,
) -> _Values:
    """Values of a function of paired samples on equal blocks of at most a batch.

    Fewer samples than there are blocks are left out at the end.

    Args:
      function: of (K, dx) and (K, dy).
      x: (N, dx).
      y: (N, dy).
      batch_size: largest K.

    Returns:
      (blocks, ...) values.
    """
    num_blocks = -(-len(x) // batch_size)
    size = len(x) // num_blocks
    pairs = [
        samples[: num_blocks * size].reshape(num_blocks, size, samples.shape[1])
        for samples in (x, y)
    ]
    return jax.lax.map(lambda pair: function(*pair), tuple(pairs))


def evaluate(
    scores: Callable[[jax.Array, jax.Array], jax.Array],
    value: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    *,
    batch_size: int,
) -> HeldOut:
    """Evaluates a function of score matrices once, with its standard error.

    Args:
      scores: (K, dx) and (K, dy) to the (K, K) scores.
      value: (scores, weights of the K samples) to a scalar; it must not change when all
        weights are multiplied by a number.
      x: (N, dx), held out.
      y: (N, dy), held out.
      batch_size: largest K.

    Returns:
      The value.
    """

    def block(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        matrix = scores(x, y)
        equal = jnp.full(len(x), 1 / len(x), matrix.dtype)
        return jax.value_and_grad(value, argnums=1)(matrix, equal)

    values, influences = block_values(block, x, y, batch_size=batch_size)
    size = influences.size
    variance = jnp.sum(jnp.square(influences)) / (size * (size - 1))
    return HeldOut(jnp.mean(values), jnp.sqrt(variance), influences.shape[1], size)
