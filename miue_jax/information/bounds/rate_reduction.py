"""Rate reduction: the log-determinant of all features less that within classes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.bounds.class_moments import (
    check_definite,
    check_moments,
    half_logdet,
)
from miue_jax.information.bounds.classes import matmul


def rate_reduction(
    means: ArrayLike,
    covariances: ArrayLike,
    prior: ArrayLike,
    *,
    noise_variance: ArrayLike = 0.0,
) -> jax.Array:
    r"""Log-determinant of all features less that within classes.

    .. math:: \tfrac12 \log\det \Sigma_T - \tfrac12 \sum_y \pi_y \log\det \Sigma_y

    with Sigma_T the covariance of the mixture. An upper bound of I(Y; Z) where Z given
    Y is Gaussian, and neither bound otherwise. Not bounded by H(Y): take the smaller.
    The rate reduction of the literature (MCR^2) is this with noise epsilon^2 / D, but
    for the centering: there moments are taken about 0.

    Args:
      means: (K, D).
      covariances: (K, D, D), symmetric, positive definite with the noise added.
      prior: (K,) probabilities.
      noise_variance: sigma^2 >= 0, added to all variances: the bound is then that of
        Z + sigma N.

    Returns:
      Nats, a scalar.

    Raises:
      ValueError: for shapes that do not fit, a prior that is no probability vector, or
        covariances that are not positive definite.

    References:
      docs/theory.md, T8; Yu et al., Learning Diverse and Discriminative Representations
      via the Principle of Maximal Coding Rate Reduction, NeurIPS 2020.
    """
    means, covariances, prior = check_moments(means, covariances, prior, noise_variance)
    within = jnp.linalg.cholesky(covariances)
    check_definite(within)
    centered = means - prior @ means
    between = matmul((prior[:, None] * centered).T, centered)
    total = jnp.linalg.cholesky(jnp.tensordot(prior, covariances, 1) + between)
    return half_logdet(total) - prior @ half_logdet(within)
