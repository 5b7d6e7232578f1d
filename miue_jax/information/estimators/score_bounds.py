r"""Variational bounds on mutual information as functions of a score matrix.

A critic f scores every pair of a batch: ``scores[i, j]`` = :math:`f(x_i, y_j)`, so that
the diagonal holds samples of the joint law and the rest pairs of the product law. All
values are in nats, all functions are pure and differentiable, and for each the best
critic is the log-density ratio :math:`\log p(x, y) / (p(x) p(y))`, up to a function of
x for InfoNCE and up to a constant for Donsker-Varadhan.

``weights`` weight the samples, as if each were repeated in that proportion (pairs by
the product). The derivative with respect to them at equal weights is the influence of
each sample on the value: the infinitesimal jackknife, which gives standard errors
(`evaluate`).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax.information._core import is_traced

_Values = TypeVar("_Values")


class HeldOut(NamedTuple):
    """The value of a function of score matrices on held-out samples.

    Attributes:
      value: () float, its mean over blocks.
      standard_error: () float, by the infinitesimal jackknife: the root of the sum of
        squared influences of the samples, over their number. It is that of the
        evaluation for the given critic and excludes the variance of training.
      block_size: K, samples in a block.
      num_samples: samples in all blocks.
    """

    value: jax.Array
    standard_error: jax.Array
    block_size: int
    num_samples: int


def infonce(scores: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""InfoNCE, at most log K on every batch.

    .. math:: \frac1K \sum_i \Big( f_{ii} - \log \frac1K \sum_j e^{f_{ij}} \Big)

    Its expectation is a lower bound on the mutual information for every critic and K
    that do not depend on the batch. Within a nat of log K it says little, whatever the
    critic: at K = 64 (log K = 4.16) the best one for normal pairs gives 2.61 for 3 nats
    and 4.16 for 12.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for bad shapes, scores that are NaN or weights that are not positive.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> scores = 100 * np.eye(8)  # every sample is recognized: log 8
      >>> round(float(estimators.infonce(scores)), 4)
      2.0794

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

    Here f is shifted by 1 from the usual form, so that the log-density ratio is the
    best critic as for the other bounds. The expectation is a lower bound on the mutual
    information for every critic that does not depend on the batch, at every K; with the
    best critic its variance grows like exp(2I) for normal pairs.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar; minus infinity if a score overflows.

    Raises:
      ValueError: for bad shapes, scores that are NaN or weights that are not positive.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> scores = np.log(np.array([[4.0, 1.0], [2.0, 8.0]]))
      >>> round(float(estimators.nwj(scores)), 4)  # 1 + log(32) / 2 - 1.5
      1.2329

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

    The limit for K to infinity is a lower bound on the mutual information for every
    critic that does not depend on the batch. At finite K the expectation exceeds that
    limit, because the logarithm of a mean lies below its limit on average: not a
    certified bound, and far off if few pairs dominate the mean.

    Args:
      scores: (K, K) float, K >= 2.
      weights: (K,) weights > 0 of the samples; None for equal ones.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for bad shapes, scores that are NaN or weights that are not positive.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> scores = np.log(np.array([[4.0, 1.0], [2.0, 8.0]]))
      >>> round(float(estimators.donsker_varadhan(scores)), 4)  # log(32) / 2 - log 1.5
      1.3274

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
      ValueError: for bad shapes or a clip that is not positive.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> float(estimators.smile(9 * np.eye(4) - 9, clip=2.0))  # the joint mean is 0
      2.0

    References:
      Song and Ermon, Understanding the Limitations of Variational Mutual Information
      Estimators, 2020 (clipped density ratios).
    """
    check_scalar("clip", clip)
    if not clip > 0:
        raise ValueError(f"clip is {clip}; it must be positive")
    scores, weights = check_scores(scores, weights)
    partition = _log_mean_exp(jnp.clip(scores, -clip, clip), weights)
    return _joint_mean(scores, weights) - partition


def jensen_shannon(scores: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Jensen-Shannon objective for training critics, not mutual information in nats.

    .. math:: -\frac1K \sum_i \log(1 + e^{-f_{ii}}) -
              \frac1{K(K-1)} \sum_{i \ne j} \log(1 + e^{f_{ij}})

    Logistic regression of joint against product pairs. Maximal, at twice the
    Jensen-Shannon divergence of the two laws minus 2 log 2, for the log-density ratio.
    Arguments and errors as in `infonce`.

    References:
      Nowozin et al., f-GAN: Training Generative Neural Samplers Using Variational
      Divergence Minimization, 2016; Poole et al. 2019, section 2.2.
    """
    scores, weights = check_scores(scores, weights)
    joint = jnp.sum(weights * jax.nn.softplus(-jnp.diagonal(scores)))
    pairs = jnp.exp(_log_pair_weights(weights))
    return -joint - jnp.sum(pairs * jax.nn.softplus(scores))


def check_scores(
    scores: ArrayLike, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """Checks shapes and returns scores as floats and weights (default equal), sum 1."""
    check_real("scores", scores)
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(
            f"scores have shape {scores.shape}; they must be (K, K) with K >= 2"
        )
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if not is_traced(scores) and bool(jnp.any(jnp.isnan(scores))):
        raise ValueError("scores hold NaN; they must be numbers")
    if weights is None:
        return scores, jnp.full(len(scores), 1 / len(scores), scores.dtype)
    check_real("weights", weights)
    weights = jnp.asarray(weights, scores.dtype)
    if weights.shape != scores.shape[:1]:
        raise ValueError(
            f"weights have shape {weights.shape}; scores of shape {scores.shape} need "
            f"{scores.shape[:1]}"
        )
    fits = (weights > 0) & (weights < jnp.inf)
    if not is_traced(weights) and not bool(jnp.all(fits)):
        raise ValueError(f"weights are {weights}; they must be finite and > 0")
    return scores, weights / jnp.sum(weights)


def block_values(
    function: Callable[[jax.Array, jax.Array], _Values],
    x: jax.Array,
    y: jax.Array,
    *,
    batch_size: int,
) -> _Values:
    """Applies a function of paired samples to equal blocks of at most a batch.

    Drops up to as many samples at the end as there are blocks, minus one.

    Args:
      function: takes (K, dx) and (K, dy).
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
      scores: maps (K, dx) and (K, dy) to the (K, K) scores.
      value: maps scores and weights of the K samples to a scalar; must be invariant to
        scaling all weights.
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
