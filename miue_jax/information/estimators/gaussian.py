"""Mutual information of jointly Gaussian variables, in closed form, and its copula.

Do not use a pooled Gaussian on features that cluster by class: each direction that
separates classes counts as unbounded information, and the sum can be ten times the
truth. `class_conditional_gaussian` is right there if classes are Gaussian.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import ndtri
from jax.scipy.stats import rankdata
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import (
    Estimate,
    center,
    check_labels,
    half_digamma,
    is_traced,
    known_pair,
    matmul,
)

# With half the variance along a direction between them, two equal classes are two
# standard deviations apart, and their mixture begins to have two modes.
_CLUSTERED = 0.5


class ClusteredFeaturesWarning(UserWarning):
    """A pooled Gaussian was fitted to features that cluster by class.

    Example:
      >>> import warnings
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> labels = np.arange(400) % 2
      >>> x, y = 10 * labels + np.random.default_rng(0).standard_normal((2, 400))
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     estimate = estimators.gaussian(x, y, labels=labels)
      >>> caught[0].category.__name__
      'ClusteredFeaturesWarning'
    """


def gaussian(
    x: ArrayLike,
    y: ArrayLike,
    *,
    correction: bool = True,
    copula: bool = False,
    labels: ArrayLike | None = None,
) -> Estimate:
    r"""Mutual information of the Gaussian with the covariance of the samples.

    .. math:: \hat I = \tfrac12 \bigl[\log\det S_x + \log\det S_y - \log\det S\bigr]
                     = -\tfrac12 \sum_i \log(1 - \rho_i^2)

    with :math:`\rho_i` the canonical correlations. The plug-in estimate is about
    dx dy / (2N) too high; ``correction`` adds

    .. math:: \tfrac12 \sum_{j=1}^{d_y} \Bigl[\psi\bigl(\tfrac{N - d_x - j}2\bigr)
              - \psi\bigl(\tfrac{N - j}2\bigr)\bigr],

    which makes it unbiased for Gaussian data. With ``copula``, each coordinate is first
    replaced by the normal quantile of its rank / (N + 1) (ties share their mean rank),
    so that monotone transforms of coordinates change nothing.

    The population value of the Gaussian formula is a lower bound on the mutual
    information if x or y is jointly Gaussian (docs/theory.md, T9), otherwise neither:
    for x = +-1 and y = x + 0.05 N it is 3.0, above log 2. With the copula it is
    neither.

    Args:
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      correction: subtract the bias under Gaussian data.
      copula: map each coordinate to normal scores.
      labels: (N,) integers from 0, used only to detect features that cluster.

    Returns:
      The estimate, nats, with the standard error :math:`\sqrt{\sum_i \rho_i^2 / N}`
      (first order, Gaussian data; too large near independence). Diagnostics:
      ``smallest_pivot``, the smallest share of variance of a column that the preceding
      columns leave unexplained; with labels, ``between_x`` and ``between_y``, the
      largest share, over directions, of variance that lies between classes, and
      ``clustered``, whether both exceed one half, which also warns. Under `jax.jit`
      labels are ignored, and a singular covariance gives NaN or a meaningless value
      with a pivot of about 0.

    Raises:
      ValueError: for bad samples or labels, constant columns, no more samples than
        dimensions, or a singular covariance.

    Warns:
      ClusteredFeaturesWarning: if the features cluster by class.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x, noise = np.random.default_rng(0).standard_normal((2, 4000))
      >>> estimate = estimators.gaussian(x, 0.8 * x + 0.6 * noise)
      >>> abs(float(estimate.value) - 0.511) < 0.08  # -log(1 - 0.8^2) / 2
      True

    References:
      Ince et al., A statistical framework for neuroimaging data analysis based on
      mutual information estimated via a Gaussian copula, 2017; Misra, Singh and
      Demchuk, Estimation of the entropy of a multivariate normal distribution, 2005,
      for the correction.
    """
    _checks.check_flag("correction", correction)
    _checks.check_flag("copula", copula)
    first, second, dtype = known_pair(x, y)
    size, dx, dy = len(first), first.shape[1], second.shape[1]
    if size <= dx + dy:
        raise ValueError(
            f"{size} samples of {dx} + {dy} dimensions: a Gaussian needs more samples "
            "than dimensions"
        )
    for name, samples in (("x", first), ("y", second)):
        if is_traced(samples):
            continue
        constant = np.max(samples, axis=0) == np.min(samples, axis=0)
        if constant.any():
            raise ValueError(f"column {int(np.argmax(constant))} of {name} is constant")
    if copula:
        first, second = [_normal_scores(z, dtype) for z in (first, second)]
    else:
        first, second = [center(z, dtype, standardize=True) for z in (x, y)]
    value, error, pivot = _pooled(first, second, correction=correction)
    check_pivot(pivot, dx + dy, "x and y together")
    diagnostics: dict[str, jax.Array] = {"smallest_pivot": pivot}
    if labels is not None:
        labels = check_labels(labels, size)
        if not is_traced(first, second, labels):
            diagnostics |= _diagnose(first, second, labels)
    return Estimate(value, error, "estimate", diagnostics)


def scatter_information(scatter: jax.Array, dx: int) -> tuple[jax.Array, ...]:
    """Gaussian information between the first dx columns and the others.

    Args:
      scatter: (D, D), a covariance in any scale.
      dx: columns of the first variable.

    Returns:
      The plug-in information in nats, the sum of squared canonical correlations, and
      the smallest pivot. All are NaN for an indefinite matrix.
    """
    deviation = jnp.sqrt(jnp.diagonal(scatter))
    correlation = scatter / deviation / deviation[:, None]
    joint = jnp.linalg.cholesky(correlation)
    second = jnp.linalg.cholesky(correlation[dx:, dx:])
    # det S / det S_x is that of the Schur complement, which the last block factors.
    pivots, conditional = jnp.diagonal(second), jnp.diagonal(joint)[dx:]
    value = jnp.sum(jnp.log(pivots)) - jnp.sum(jnp.log(conditional))
    canonical = solve_triangular(second, joint[dx:, :dx], lower=True)
    pivot = jnp.minimum(jnp.min(jnp.diagonal(joint)), jnp.min(pivots)) ** 2
    return value, jnp.sum(jnp.square(canonical)), pivot


def bias_correction(table: jax.Array, size: ArrayLike, dx: int, dy: int) -> jax.Array:
    """Added to the plug-in, makes it unbiased for Gaussian samples, () nats.

    The table is `half_digamma` up to the number of samples.
    """
    less = size - jnp.arange(1, dy + 1)
    return jnp.sum(table[less - dx] - table[less]) / 2


def smallest_pivot(dtype: jnp.dtype, dimensions: int) -> float:
    """The pivot that rounding may leave of a singular covariance."""
    return 8 * float(jnp.finfo(dtype).eps) * dimensions**0.5


def check_pivot(pivot: jax.Array, dimensions: int, what: str) -> None:
    """Raises a ValueError if the smallest pivot says that a covariance is singular."""
    if is_traced(pivot):
        return
    if not float(pivot) > smallest_pivot(
        pivot.dtype, dimensions
    ):  # NaN if the factorization broke down
        raise ValueError(
            f"the covariance of {what} is singular (in {pivot.dtype}): a column is a "
            "linear function of others, and the information of a Gaussian infinite or "
            "undefined"
        )


@functools.partial(jax.jit, static_argnames="correction")
def _pooled(
    x: jax.Array, y: jax.Array, *, correction: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    size = len(x)
    samples = jnp.concatenate([x, y], axis=1)
    table = jnp.asarray(half_digamma(size), x.dtype)
    scatter = matmul(samples.T, samples)
    value, squared, pivot = scatter_information(scatter, x.shape[1])
    if correction:
        value += bias_correction(table, size, x.shape[1], y.shape[1])
    return value, jnp.sqrt(squared / size), pivot


def _normal_scores(samples: np.ndarray | jax.Array, dtype: jnp.dtype) -> jax.Array:
    if isinstance(samples, np.ndarray):
        # Ranked as they came: rounded, different samples might be tied.
        ranks = jnp.asarray(np.stack([_ranks(z) for z in samples.T], axis=1), dtype)
    else:
        ranks = rankdata(samples, axis=0).astype(dtype)
    scores = ndtri(ranks / (len(samples) + 1))
    return scores - jnp.mean(scores, axis=0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _diagnose(x: jax.Array, y: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    members = jax.nn.one_hot(labels, int(labels.max()) + 1, dtype=x.dtype)
    between_x, between_y = _between(x, members), _between(y, members)
    clustered = jnp.minimum(between_x, between_y) > _CLUSTERED
    if clustered:
        warnings.warn(
            f"up to {float(between_x):.0%} of the variance of x along a direction, and "
            f"{float(between_y):.0%} of that of y, lies between classes: a pooled "
            "Gaussian overestimates without limit, class_conditional_gaussian does not",
            ClusteredFeaturesWarning,
            stacklevel=3,
        )
    return {"between_x": between_x, "between_y": between_y, "clustered": clustered}


@jax.jit
def _between(samples: jax.Array, members: jax.Array) -> jax.Array:
    """Largest share, over directions, of the variance that lies between classes."""
    counts = jnp.maximum(jnp.sum(members, axis=0), 1)
    sums = matmul(samples.T, members) / jnp.sqrt(counts)
    factor = jnp.linalg.cholesky(matmul(samples.T, samples))
    return jnp.linalg.norm(solve_triangular(factor, sums, lower=True), ord=2) ** 2
