"""Bounds on the information of features about the label, for Gaussian classes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp, xlogy
from jax.typing import ArrayLike

from miue_jax.information.bounds.class_moments import (
    check_definite,
    check_moments,
    check_prior,
    half_logdet,
)


class LabelBounds(NamedTuple):
    """Bounds of I(Y; Z).

    Attributes:
      lower: () nats, from Bhattacharyya distances.
      upper: () nats, from Kullback-Leibler divergences; never above the entropy.
      entropy: () nats, H(Y).
    """

    lower: jax.Array
    upper: jax.Array
    entropy: jax.Array


def label_entropy(prior: ArrayLike) -> jax.Array:
    r"""Entropy of the label, :math:`H(Y) = -\sum_y \pi_y \log \pi_y`.

    Args:
      prior: (K,) probabilities.

    Returns:
      Nats, a scalar; an upper bound of I(Y; Z) for every Z.

    Raises:
      ValueError: for what is not a probability vector.
    """
    prior = check_prior(prior)
    return -jnp.sum(xlogy(prior, jnp.where(prior > 0, prior, 1)))


def label_information_bounds(
    means: ArrayLike,
    covariances: ArrayLike,
    prior: ArrayLike,
    *,
    noise_variance: ArrayLike = 0.0,
) -> LabelBounds:
    r"""Bounds of I(Y; Z) where Z given Y is Gaussian.

    .. math:: -\sum_i \pi_i \log \sum_j \pi_j e^{-B(p_i, p_j)} \le I(Y; Z)
              \le -\sum_i \pi_i \log \sum_j \pi_j e^{-D(p_i \| p_j)}

    with the Bhattacharyya distance B and the Kullback-Leibler divergence D of the class
    laws. Both are 0 for equal classes and approach H(Y) for separate ones. Bounds for
    Gaussian classes with these moments; with moments of a sample, or classes of another
    shape, they are approximations.

    Args:
      means: (K, D).
      covariances: (K, D, D), symmetric, positive definite with the noise added.
      prior: (K,) probabilities.
      noise_variance: sigma^2 >= 0, added to all variances: the bounds are then those of
        Z + sigma N.

    Returns:
      The bounds in nats. Takes O(K^2 D^3) time.

    Raises:
      ValueError: for shapes that do not fit, a prior that is no probability vector, or
        covariances that are not positive definite.

    References:
      docs/theory.md, T8; Kolchinsky and Tracey, Estimating Mixture Entropy with
      Pairwise Distances, Entropy 19 (2017), for bounds of this form.
    """
    means, covariances, prior = check_moments(means, covariances, prior, noise_variance)
    factors = jnp.linalg.cholesky(covariances)
    check_definite(factors)
    volumes = half_logdet(factors)

    def from_one(one: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        mean, covariance, factor, volume = one

        def to_other(
            other: tuple[jax.Array, ...],
        ) -> tuple[jax.Array, jax.Array]:
            mean_, covariance_, factor_, volume_ = other
            middle = jnp.linalg.cholesky((covariance + covariance_) / 2)
            step = solve_triangular(middle, mean - mean_, lower=True)
            distance = jnp.sum(jnp.square(step)) / 8 + half_logdet(middle)
            distance -= (volume + volume_) / 2
            ratio = solve_triangular(factor_, factor, lower=True)
            step = solve_triangular(factor_, mean - mean_, lower=True)
            excess = jnp.sum(jnp.square(ratio)) - len(mean)
            divergence = (excess + jnp.sum(jnp.square(step))) / 2
            return distance, divergence + volume_ - volume

        return jax.vmap(to_other)((means, covariances, factors, volumes))

    pairs = lax.map(from_one, (means, covariances, factors, volumes))
    lower, upper = (
        -jnp.sum(prior * logsumexp(-distances, axis=1, b=prior)) for distances in pairs
    )
    return LabelBounds(lower, upper, label_entropy(prior))
