"""A multilayer perceptron: what the trained estimators learn with."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Layers = tuple[tuple[jax.Array, jax.Array], ...]


def init_mlp(key: jax.Array, sizes: Sequence[int], dtype: jnp.dtype) -> Layers:
    """Weights by He's rule for ReLU, biases 0.

    Args:
      key: random key.
      sizes: of the input, of the hidden layers, of the output.
      dtype: floating-point type of the parameters.

    Returns:
      A (weights, biases) pair for each layer.
    """
    keys = jax.random.split(key, len(sizes) - 1)
    initializer = jax.nn.initializers.he_normal()
    return tuple(
        (initializer(key, shape, dtype), jnp.zeros(shape[1], dtype))
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    )


def apply_mlp(layers: Layers, inputs: jax.Array) -> jax.Array:
    """ReLU after every layer but the last.

    Args:
      layers: of `init_mlp`.
      inputs: (N, D) float.

    Returns:
      (N, output size) float.
    """
    hidden = inputs
    for weights, biases in layers[:-1]:
        hidden = jax.nn.relu(hidden @ weights + biases)
    weights, biases = layers[-1]
    return hidden @ weights + biases
