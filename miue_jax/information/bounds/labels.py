"""Bounds on the information of features about the label, for Gaussian classes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp, xlogy
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax._centering import unrounded
from miue_jax.information._core import is_traced, matmul


class LabelBounds(NamedTuple):
    """Bounds on I(Y; Z).

    Attributes:
      lower: () nats, from Bhattacharyya distances.
      upper: () nats, from Kullback-Leibler divergences; never above the entropy.
      entropy: () nats, H(Y).

    Example:
      >>> from miue_jax.information import bounds
      >>> found = bounds.LabelBounds(lower=0.3, upper=0.5, entropy=0.7)
      >>> found.lower <= found.upper <= found.entropy
      True
    """

    lower: jax.Array
    upper: jax.Array
    entropy: jax.Array


def label_entropy(prior: ArrayLike) -> jax.Array:
    r"""Entropy of the label, :math:`H(Y) = -\sum_y \pi_y \log \pi_y`.

    Args:
      prior: (K,) probabilities.

    Returns:
      Nats, a scalar; an upper bound on I(Y; Z) for every Z.

    Raises:
      ValueError: if the prior is not a probability vector.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> round(float(bounds.label_entropy(np.full(10, 0.1))), 4)  # log 10
      2.3026
    """
    prior = _check_prior(prior)
    return -jnp.sum(xlogy(prior, jnp.where(prior > 0, prior, 1)))


def label_information_bounds(
    means: ArrayLike,
    covariances: ArrayLike,
    prior: ArrayLike,
    *,
    noise_variance: ArrayLike = 0.0,
) -> LabelBounds:
    r"""Bounds on I(Y; Z) if Z given Y is Gaussian.

    .. math:: -\sum_i \pi_i \log \sum_j \pi_j e^{-B(p_i, p_j)} \le I(Y; Z)
              \le -\sum_i \pi_i \log \sum_j \pi_j e^{-D(p_i \| p_j)}

    with the Bhattacharyya distance B and the Kullback-Leibler divergence D of the class
    laws. Both are 0 for equal classes and approach H(Y) as classes separate. They are
    bounds for Gaussian classes with these moments, and approximations for moments of a
    sample or classes of another shape.

    Args:
      means: (K, D).
      covariances: (K, D, D), symmetric, positive definite with the noise added.
      prior: (K,) probabilities.
      noise_variance: sigma^2 >= 0, added to all variances: the bounds are then those of
        Z + sigma N.

    Returns:
      The bounds in nats. Takes O(K^2 D^3) time.

    Raises:
      ValueError: for mismatched shapes, a prior that is not a probability vector, or
        covariances that are not positive definite.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> means, prior = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
      >>> found = bounds.label_information_bounds(means, np.ones((2, 1, 1)), prior)
      >>> round(float(found.lower), 3), round(float(found.upper), 3)
      (0.219, 0.566)

    References:
      docs/theory.md, T8; Kolchinsky and Tracey, Estimating Mixture Entropy with
      Pairwise Distances, Entropy 19 (2017), for bounds of this form.
    """
    means, covariances, prior = _check_moments(
        means, covariances, prior, noise_variance
    )
    factors = _cholesky(covariances)
    volumes = _half_logdet(factors)

    def from_one(one: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        mean, covariance, factor, volume = one

        def to_other(
            other: tuple[jax.Array, ...],
        ) -> tuple[jax.Array, jax.Array]:
            mean_, covariance_, factor_, volume_ = other
            middle = jnp.linalg.cholesky((covariance + covariance_) / 2)
            step = solve_triangular(middle, mean - mean_, lower=True)
            distance = jnp.sum(jnp.square(step)) / 8 + _half_logdet(middle)
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


def rate_reduction(
    means: ArrayLike,
    covariances: ArrayLike,
    prior: ArrayLike,
    *,
    noise_variance: ArrayLike = 0.0,
) -> jax.Array:
    r"""Log-determinant of all features minus that within classes.

    .. math:: \tfrac12 \log\det \Sigma_T - \tfrac12 \sum_y \pi_y \log\det \Sigma_y

    with Sigma_T the covariance of the mixture. An upper bound on I(Y; Z) if Z given Y
    is Gaussian; otherwise not a bound on either side. Not limited by H(Y): take the
    smaller.
    The rate reduction of the literature (MCR^2) is this with noise epsilon^2 / D,
    except that it takes moments about 0 instead of centering.

    Args:
      means: (K, D).
      covariances: (K, D, D), symmetric, positive definite with the noise added.
      prior: (K,) probabilities.
      noise_variance: sigma^2 >= 0, added to all variances: the bound is then that of
        Z + sigma N.

    Returns:
      Nats, a scalar.

    Raises:
      ValueError: for mismatched shapes, a prior that is not a probability vector, or
        covariances that are not positive definite.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> means, prior = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
      >>> rate = bounds.rate_reduction(means, np.ones((2, 1, 1)), prior)
      >>> round(float(rate), 4)  # log(2) / 2: variance 2 overall, 1 within classes
      0.3466

    References:
      docs/theory.md, T8; Yu et al., Learning Diverse and Discriminative Representations
      via the Principle of Maximal Coding Rate Reduction, NeurIPS 2020.
    """
    means, covariances, prior = _check_moments(
        means, covariances, prior, noise_variance
    )
    within = _cholesky(covariances)
    centered = means - prior @ means
    between = matmul((prior[:, None] * centered).T, centered)
    total = jnp.linalg.cholesky(jnp.tensordot(prior, covariances, 1) + between)
    return _half_logdet(total) - prior @ _half_logdet(within)


def _check_moments(
    means: ArrayLike, covariances: ArrayLike, prior: ArrayLike, noise: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checks moments, adds noise to the covariances and unifies the dtype."""
    check_real("means", means)
    check_real("covariances", covariances)
    check_scalar("noise_variance", noise)
    prior = _check_prior(prior)
    if not is_traced(means) and not np.all(np.isfinite(np.asarray(means))):
        raise ValueError("means hold NaN or infinity; they must be finite")
    wide = unrounded(means)
    if wide is not None and wide.ndim == 2 and len(wide):
        # Only the differences of means matter, and rounding could take them.
        means = wide - wide.mean(axis=0)
    means, covariances = jnp.asarray(means), jnp.asarray(covariances)
    dtype = jnp.result_type(means, covariances, prior, jnp.float32)
    if means.ndim != 2 or covariances.shape != (*means.shape, means.shape[1]):
        raise ValueError(
            f"means have shape {means.shape} and covariances {covariances.shape}; they "
            "must be (K, D) and (K, D, D)"
        )
    if prior.shape != means.shape[:1]:
        raise ValueError(f"prior has shape {prior.shape}; it must be {means.shape[:1]}")
    if not is_traced(noise) and not 0 <= float(np.asarray(noise)) < float("inf"):
        raise ValueError(f"noise_variance is {noise}; it must be finite and >= 0")
    if not is_traced(covariances):
        # One half alone would be factored, without a word about the other.
        skew = np.abs(np.asarray(covariances - covariances.mT)).max(axis=(1, 2))
        largest = np.abs(np.asarray(covariances)).max(axis=(1, 2))
        bad = ~(skew <= 1e-3 * largest)
        if bad.any():
            raise ValueError(
                f"the covariance of class {int(np.argmax(bad))} is not symmetric and "
                "finite"
            )
    noise = jnp.asarray(noise, dtype) * jnp.eye(means.shape[1], dtype=dtype)
    return means.astype(dtype), covariances.astype(dtype) + noise, prior.astype(dtype)


def _check_prior(prior: ArrayLike) -> jax.Array:
    check_real("prior", prior)
    prior = jnp.asarray(prior)
    prior = prior.astype(jnp.promote_types(prior.dtype, jnp.float32))
    if prior.ndim != 1 or len(prior) == 0:
        raise ValueError(f"prior has shape {prior.shape}; it must be (K,)")
    if not is_traced(prior):
        total = float(jnp.sum(prior))
        if not (bool(jnp.all(prior >= 0)) and abs(total - 1) < 1e-4):
            raise ValueError(
                f"prior is {prior}, sum {total}; it must be >= 0 and sum to 1"
            )
    return prior


def _cholesky(covariances: jax.Array) -> jax.Array:
    factors = jnp.linalg.cholesky(covariances)
    if not is_traced(factors):
        bad = ~np.isfinite(np.asarray(factors)).all(axis=(1, 2))
        if bad.any():
            raise ValueError(
                f"the covariance of class {int(np.argmax(bad))} is not positive "
                "definite; add noise_variance"
            )
    return factors


def _half_logdet(factor: jax.Array) -> jax.Array:
    """Half the log-determinant of a matrix from its Cholesky factor, (..., D, D)."""
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return jnp.sum(jnp.log(diagonal), axis=-1)
