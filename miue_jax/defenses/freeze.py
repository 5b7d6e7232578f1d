"""A network under training as a plain function, out of sight of differentiation."""

from typing import Any

import jax
from jax import lax

from miue_jax.defenses.base import Predict
from miue_jax.train.classifier import Forward


def freeze(forward: Forward, images: jax.Array, *, train: bool) -> Predict:
    """Takes a network out of the derivative with respect to its parameters.

    What a loss computes with the result, gradients by the images among it, is not
    differentiated again, and nothing of it is kept for a backward pass. Stopping the
    gradient of what comes out would give the same numbers, but only after tracing and
    compiling the derivative of every step of an attack.

    Args:
      forward: the network under training.
      images: (B, H, W, C) float, of the shape and dtype of those to come; their values
        are not used.
      train: whether to normalize with the statistics of the batch; the updated running
        ones are dropped.

    Returns:
      A function from images (B, H, W, C) to logits (B, K).
    """

    def predict(images: jax.Array) -> jax.Array:
        return forward(images, train=train)[0]

    converted, constants = jax.closure_convert(predict, images)
    frozen: list[Any] = [lax.stop_gradient(constant) for constant in constants]
    return lambda images: converted(images, *frozen)
