"""CLUB, the contrastive log-ratio, with a learned normal conditional law."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import (
    Estimate,
    as_matrix,
    check_key,
    check_pair,
    deviation,
)
from miue_jax.information.estimators.fitting import (
    Fit,
    FitConfig,
    Layers,
    apply_mlp,
    check_config,
    fit,
    init_mlp,
    split,
)
from miue_jax.information.estimators.score_bounds import check_scores, evaluate


class Conditional(NamedTuple):
    """Parameters of q(y | x), normal with a diagonal covariance.

    Attributes:
      x_center: (dx,) mean of the training samples.
      x_scale: (dx,) their standard deviation.
      y_center: (dy,) mean of the training samples.
      y_scale: (dy,) their standard deviation.
      layers: the network for means and log-variances of standardized y.
    """

    x_center: jax.Array
    x_scale: jax.Array
    y_center: jax.Array
    y_scale: jax.Array
    layers: Layers


def contrastive_log_ratio(
    log_likelihoods: ArrayLike,
    *,
    leave_one_out: bool = False,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""CLUB value of log-likelihoods :math:`l_{ij} = \log q(y_j | x_i)`.

    .. math:: \frac1K \sum_i l_{ii} - \frac1{K(K-1)} \sum_{i \ne j} l_{ij}
              \quad\text{or, leaving one out,}\quad
              \frac1K \sum_i \Big( l_{ii} - \log \frac1{K-1} \sum_{j \ne i} e^{l_{ji}}
              \Big)

    With the true conditional law as q the expectation of either is an upper bound on
    the mutual information, the second being tighter. The first is loose: a normal pair
    of correlation r gives r^2 / (1 - r^2), which is 402 nats for 3. With any other q
    neither is a bound: q(y | x) = q(y) gives 0.

    Args:
      log_likelihoods: (K, K) float, K >= 2, nats.
      leave_one_out: use the second form.
      weights: (K,) weights > 0 of the samples, as in `score_bounds`; None for equal.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for bad shapes.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> log_likelihoods = np.array([[0.0, -2.0], [-4.0, 0.0]])
      >>> float(estimators.contrastive_log_ratio(log_likelihoods))
      3.0

    References:
      Cheng et al., CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information,
      2020, section 3; Poole et al., On Variational Bounds of Mutual Information, 2019,
      section 2.5 (leave one out).
    """
    scores, weights = check_scores(log_likelihoods, weights)
    # Differences within columns are exactly 0 if q ignores x.
    differences = jnp.diagonal(scores) - scores
    others = ~jnp.eye(len(scores), dtype=bool)
    log_weights = jnp.where(others, jnp.log(weights)[:, None], -jnp.inf)
    if leave_one_out:
        columns = logsumexp(log_weights, axis=0) - logsumexp(
            log_weights - differences, axis=0
        )
    else:
        shares = jnp.exp(log_weights)
        columns = jnp.sum(shares * differences, axis=0) / jnp.sum(shares, axis=0)
    return jnp.sum(weights * columns)


def club(
    key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    *,
    leave_one_out: bool = False,
    config: FitConfig = FitConfig(),  # noqa: B008 (immutable)
) -> Estimate:
    """Trains a normal q(y | x) and evaluates `contrastive_log_ratio` on other samples.

    Neither a lower nor an upper bound, even in population: it would be an upper bound
    with the true conditional law, but q is a learned normal one, and a q that ignores x
    gives 0 whatever the mutual information. Without leaving one out it is also far
    above the mutual information of strong dependence, more than hundredfold at 3 nats.
    For a valid upper bound, see `miue_jax.information.bounds.within_class_logdet`.

    Args:
      key: random key for the splits and the training.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers, continuous.
      leave_one_out: use the tighter of the two forms.
      config: network, training and sizes of the splits.

    Returns:
      The estimate in nats, kind "estimate", with the standard error of the evaluation
      by the infinitesimal jackknife, which excludes the variance of training.
      Diagnostics: ``validation_score``, mean log-likelihood of standardized y;
      ``best_step``, 0 if no step improved on the initial network; ``steps``.

    Raises:
      ValueError: for bad samples, or too few of them for the splits and a batch.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> y = np.random.default_rng(0).standard_normal((60, 1))
      >>> x = np.ones((60, 1))  # constant
      >>> config = estimators.FitConfig(hidden=4, depth=1, batch_size=16, max_steps=4)
      >>> estimate = estimators.club(jax.random.key(0), x, y, config=config)
      >>> abs(float(estimate.value)) < 1e-4
      True

    References:
      Cheng et al., CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information,
      2020, section 3.2.
    """
    check_key(key)
    check_config(config)
    _checks.check_flag("leave_one_out", leave_one_out)
    x, y = check_pair(x, y, minimum=8)
    return _club(key, x, y, leave_one_out, config)


def fit_conditional(
    key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 (immutable)
) -> Fit:
    """Trains q(y | x) by maximum likelihood; the fit's parameters are a `Conditional`.

    A random share of the samples, `FitConfig.validation_fraction`, decides when to
    stop; the rest are for training and set mean and standard deviation of the inputs.
    Arguments and errors as in `club`.
    """
    x, y = check_pair(x, y, minimum=4, shift=False)
    return _fit_conditional(key, x, y, config)


def log_likelihoods(conditional: Conditional, x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Log-likelihoods of all pairs under q.

    Args:
      conditional: q, from `fit_conditional`.
      x: (K, dx) or (K,) float.
      y: (L, dy) or (L,) float.

    Returns:
      (K, L) float, nats; entry i, j is :math:`\log q(y_j | x_i)`.
    """
    standard_x = (as_matrix(x) - conditional.x_center) / conditional.x_scale
    standard_y = (as_matrix(y) - conditional.y_center) / conditional.y_scale
    # Row by row: in a matrix product, the squares of small residuals would cancel.
    rows = jax.lax.map(
        lambda moments: _log_density(moments[0], moments[1], standard_y),
        _moments(conditional.layers, standard_x),
    )
    return rows - jnp.sum(jnp.log(conditional.y_scale))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _club(
    key: jax.Array, x: jax.Array, y: jax.Array, leave_one_out: bool, config: FitConfig
) -> Estimate:
    split_key, fit_key = jax.random.split(key)
    fitting, evaluation = split(split_key, len(x), config, "evaluation")
    trained = fit_conditional(fit_key, x[fitting], y[fitting], config=config)
    result = evaluate(
        functools.partial(log_likelihoods, trained.params),
        lambda scores, weights: contrastive_log_ratio(
            scores, leave_one_out=leave_one_out, weights=weights
        ),
        x[evaluation],
        y[evaluation],
        batch_size=config.evaluation_batch_size,
    )
    diagnostics = {
        "validation_score": trained.score,
        "best_step": trained.best_step,
        "steps": trained.steps,
    }
    return Estimate(result.value, result.standard_error, "estimate", diagnostics)


@functools.partial(jax.jit, static_argnums=3)
def _fit_conditional(
    key: jax.Array, x: jax.Array, y: jax.Array, config: FitConfig
) -> Fit:
    split_key, init_key, fit_key = jax.random.split(key, 3)
    training, validation = split(split_key, len(x), config, "validation")
    x_scaling, y_scaling = _scaling(x[training]), _scaling(y[training])
    x = (x - x_scaling[0]) / x_scaling[1]
    y = (y - y_scaling[0]) / y_scaling[1]
    sizes = (x.shape[1], *(config.hidden,) * config.depth, 2 * y.shape[1])
    layers = init_mlp(init_key, sizes, x.dtype)
    # Starts as the normal law of all y: means and log-variances 0.
    layers = (*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1]))
    train_x, train_y = x[training], y[training]

    def log_likelihood(layers: Layers, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(_log_density(*_moments(layers, x), y))

    def loss(layers: Layers, carry: None, indices: jax.Array) -> tuple[jax.Array, None]:
        return -log_likelihood(layers, train_x[indices], train_y[indices]), carry

    def score(layers: Layers) -> jax.Array:
        return log_likelihood(layers, x[validation], y[validation])

    result = fit(
        fit_key, layers, None, loss, score, num_samples=len(training), config=config
    )
    return result._replace(params=Conditional(*x_scaling, *y_scaling, result.params))


def _moments(layers: Layers, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    means, log_variances = jnp.split(apply_mlp(layers, x), 2, axis=1)
    return means, log_variances


def _log_density(means: jax.Array, log_variances: jax.Array, y: jax.Array) -> jax.Array:
    squares = jnp.square(y - means) * jnp.exp(-log_variances)
    constant = math.log(2 * math.pi)
    return -0.5 * jnp.sum(squares + log_variances + constant, axis=-1)


def _scaling(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    scale = deviation(samples)
    return jnp.mean(samples, axis=0), jnp.where(scale > 0, scale, 1)
