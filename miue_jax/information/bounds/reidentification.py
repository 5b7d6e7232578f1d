"""How often a training image can be told from its noisy feature."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.bounds.classes import (
    check_classes,
    check_positive,
    class_counts,
)
from miue_jax.information.bounds.fano import fano_accuracy
from miue_jax.information.bounds.log_sum_exp import class_lse
from miue_jax.information.bounds.within_class import class_logdets


def reidentification_accuracy(
    features: ArrayLike,
    labels: ArrayLike,
    noise_variance: ArrayLike,
    num_classes: int,
) -> jax.Array:
    r"""Largest accuracy of telling which image of its class a noisy feature is from.

    Someone who knows the label, the features of all images, and one feature in Gaussian
    noise guesses the image. In a class of n images that are equally likely the accuracy
    a satisfies

    .. math:: d(a \,\|\, 1/n) \le I(\text{index}; \tilde Z_p \mid y)
              \le \min\bigl\{\tfrac12 \log\det(I + S_y / \sigma^2),
              -\tfrac1n \sum_i \log \tfrac1n \sum_j e^{-|z_i - z_j|^2 / 2 \sigma^2}
              \bigr\}

    with d as in `fano_accuracy` and S_y divided by n, since the law is that of the
    images themselves: no sampling error is left, and the value is a certified upper
    bound. This is what collapse of the features does certify.

    Args:
      features: (N, D), not normalized here: sigma^2 is in their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound of the accuracy over all images, a scalar in (0, 1]; images alone in
      their class count as identified. For one class, pass its features alone.

    Raises:
      ValueError: for bad shapes or values.

    References:
      docs/theory.md, T14.
    """
    features, labels, size = check_classes(features, labels, num_classes, minimum=1)
    check_positive("noise_variance", noise_variance)
    noise = jnp.asarray(noise_variance, features.dtype)
    counts = jnp.maximum(class_counts(labels, num_classes, features.dtype), 1)
    # Division by n instead of n - 1, as more noise.
    noises = noise * counts / jnp.maximum(counts - 1, 1)
    logdets = class_logdets(features, labels, noises, num_classes, size)
    pairwise = class_lse(features, labels, 2 * noise, num_classes, size)
    # Beyond its precision the log-determinant is NaN and the other holds alone.
    information = jnp.where(logdets < pairwise, logdets, pairwise)
    return jnp.mean(fano_accuracy(information, counts)[labels])
