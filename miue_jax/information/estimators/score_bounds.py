r"""Variational bounds on mutual information as functions of a score matrix.

A critic f scores every pair of a batch: ``scores[i, j]`` = :math:`f(x_i, y_j)`, so that
the diagonal holds samples of the joint law and the rest pairs of the product law. All
values are in nats, all functions are pure and differentiable, and for each the best
critic is the log-density ratio :math:`\log p(x, y) / (p(x) p(y))`, up to a function of
x for InfoNCE and up to a constant for Donsker-Varadhan.

``weights`` weigh the samples, as if each were repeated in that proportion (pairs by the
product). The derivative with respect to them at equal weights is the influence of each
sample on the value: the infinitesimal jackknife, which gives standard errors.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike


def infonce(scores: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""InfoNCE, at most log K on every batch.

    .. math:: \frac1K \sum_i \Big( f_{ii} - \log \frac1K \sum_j e^{f_{ij}} \Big)

    Its expectation is a lower bound of the mutual information for every critic and K
    that do not depend on the batch. Within a nat of log K it says little, whatever the
    critic: at K = 64 (log K = 4.16) the best one for normal pairs gives 2.61 for 3 nats
    and 4.16 for 12.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for wrong shapes.

    References:
      van den Oord et al., Representation Learning with Contrastive Predictive Coding,
      2018, section 2.3; Poole et al., On Variational Bounds of Mutual Information,
      2019, section 2.3.
    """
    scores, weights = check_scores(scores, weights)
    ratios = jnp.diagonal(scores) - logsumexp(scores + jnp.log(weights), axis=1)
    return jnp.sum(weights * ratios)


def nwj(scores: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Nguyen-Wainwright-Jordan bound (f-GAN KL, MINE-f).

    .. math:: 1 + \frac1K \sum_i f_{ii} - \frac1{K(K-1)} \sum_{i \ne j} e^{f_{ij}}

    With f moved by 1 from the usual form, so that the log-density ratio is the best
    critic here too. Its expectation is a lower bound of the mutual information for
    every critic that does not depend on the batch, at every K; with the best critic its
    variance grows like exp(2I) for normal pairs.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar; minus infinity where a score overflows.

    Raises:
      ValueError: for wrong shapes.

    References:
      Nguyen et al., Estimating Divergence Functionals and the Likelihood Ratio by
      Convex Risk Minimization, 2010; Poole et al. 2019, section 2.2.
    """
    scores, weights = check_scores(scores, weights)
    return 1 + _joint_mean(scores, weights) - jnp.exp(_log_mean_exp(scores, weights))


def donsker_varadhan(
    scores: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    r"""Donsker-Varadhan value, the objective of MINE.

    .. math:: \frac1K \sum_i f_{ii} - \log \frac1{K(K-1)} \sum_{i \ne j} e^{f_{ij}}

    The limit for K to infinity is a lower bound of the mutual information for every
    critic that does not depend on the batch. At finite K the expectation is above that
    limit, as the logarithm of a mean is below its limit on average: not a certified
    bound, and far off when few pairs carry the mean.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for wrong shapes.

    References:
      Donsker and Varadhan, 1983; Belghazi et al., Mutual Information Neural Estimation,
      2018, section 3.1.
    """
    scores, weights = check_scores(scores, weights)
    return _joint_mean(scores, weights) - _log_mean_exp(scores, weights)


def smile(
    scores: ArrayLike, *, clip: float = 5.0, weights: ArrayLike | None = None
) -> jax.Array:
    r"""SMILE: Donsker-Varadhan with the scores clipped in the partition term.

    .. math:: \frac1K \sum_i f_{ii} -
              \log \frac1{K(K-1)} \sum_{i \ne j} e^{\max(\min(f_{ij}, c), -c)}

    Neither a lower nor an upper bound, at any K: clipping trades the variance of the
    partition term, at most exp(2c), for bias in either direction.

    Args:
      scores: (K, K) float, K >= 2.
      clip: c > 0, nats; infinity gives `donsker_varadhan`.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for wrong shapes or a clip that is not positive.

    References:
      Song and Ermon, Understanding the Limitations of Variational Mutual Information
      Estimators, 2020 (clipped density ratios).
    """
    if not clip > 0:
        raise ValueError(f"clip is {clip}; it must be positive")
    scores, weights = check_scores(scores, weights)
    partition = _log_mean_exp(jnp.clip(scores, -clip, clip), weights)
    return _joint_mean(scores, weights) - partition


def jensen_shannon(scores: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Jensen-Shannon objective, to train critics; no mutual information in nats.

    .. math:: -\frac1K \sum_i \log(1 + e^{-f_{ii}}) -
              \frac1{K(K-1)} \sum_{i \ne j} \log(1 + e^{f_{ij}})

    Logistic regression of joint against product pairs. Largest, at twice the
    Jensen-Shannon divergence of the two laws less 2 log 2, for the log-density ratio.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value, a scalar <= 0.

    Raises:
      ValueError: for wrong shapes.

    References:
      Nowozin et al., f-GAN: Training Generative Neural Samplers Using Variational
      Divergence Minimization, 2016; Poole et al. 2019, section 2.2.
    """
    scores, weights = check_scores(scores, weights)
    joint = jnp.sum(weights * jax.nn.softplus(-jnp.diagonal(scores)))
    pairs = jnp.exp(_log_pair_weights(weights))
    return -joint - jnp.sum(pairs * jax.nn.softplus(scores))


def _joint_mean(scores: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(weights * jnp.diagonal(scores))


def _log_mean_exp(scores: jax.Array, weights: jax.Array) -> jax.Array:
    # Left in, a large score of the diagonal would make the others underflow.
    off_diagonal = jnp.where(jnp.eye(len(scores), dtype=bool), -jnp.inf, scores)
    return logsumexp(off_diagonal + _log_pair_weights(weights))


def _log_pair_weights(weights: jax.Array) -> jax.Array:
    # Equal weights are constants, and XLA would spend minutes on folding their pairs.
    weights = lax.optimization_barrier(weights)
    log_weights = jnp.log(weights)
    pairs = log_weights[:, None] + log_weights
    total = jnp.square(jnp.sum(weights)) - jnp.sum(jnp.square(weights))
    pairs = jnp.where(jnp.eye(len(weights), dtype=bool), -jnp.inf, pairs)
    return pairs - jnp.log(total)


def check_scores(
    scores: ArrayLike, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """Checks a score matrix and the weights of its samples.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights, or None.

    Returns:
      The scores in floating point and the weights, equal ones for None, with sum 1.

    Raises:
      ValueError: for wrong shapes.
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(
            f"scores have shape {scores.shape}; they must be (K, K) with K >= 2"
        )
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if weights is None:
        return scores, jnp.full(len(scores), 1 / len(scores), scores.dtype)
    weights = jnp.asarray(weights, scores.dtype)
    if weights.shape != scores.shape[:1]:
        raise ValueError(
            f"weights have shape {weights.shape}; scores of shape {scores.shape} need "
            f"{scores.shape[:1]}"
        )
    return scores, weights / jnp.sum(weights)
