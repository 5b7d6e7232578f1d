"""CLUB, the contrastive log-ratio, with a trained normal conditional law."""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from miue_jax.information.checks import check_pair
from miue_jax.information.estimate import Estimate
from miue_jax.information.estimators.conditional import fit_conditional, log_likelihoods
from miue_jax.information.estimators.fitting import FitConfig
from miue_jax.information.estimators.held_out import evaluate, split
from miue_jax.information.estimators.score_bounds import check_scores


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

    With the true conditional law for q the expectation of either is an upper bound of
    the mutual information, the second the tighter one. The first is loose: a normal
    pair of correlation r gives r^2 / (1 - r^2), which is 402 nats for 3. With any other
    q neither is a bound: q(y | x) = q(y) gives 0.

    Args:
      log_likelihoods: (K, K) float, K >= 2, nats.
      leave_one_out: the second form.
      weights: (K,) weights > 0 of the samples, as in `score_bounds`; None for equal.

    Returns:
      The value in nats, a scalar.

    Raises:
      ValueError: for wrong shapes.

    References:
      Cheng et al., CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information,
      2020, section 3; Poole et al., On Variational Bounds of Mutual Information, 2019,
      section 2.5 (leave one out).
    """
    scores, weights = check_scores(log_likelihoods, weights)
    # Differences within columns: where q does not look at x they are exactly 0.
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

    Neither a lower nor an upper bound, in population: it would be an upper bound with
    the true conditional law, but q is a normal one that was learned, and a q that
    ignores x gives 0 whatever the mutual information. Without leaving one out it is
    also far above the mutual information where the dependence is strong, more than
    hundredfold at 3 nats. For an upper bound that holds, see
    `miue_jax.information.bounds.within_class_logdet`.

    Args:
      key: random key of the splits and the training.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers, continuous.
      leave_one_out: the tighter of the two forms.
      config: network, training and sizes of the splits.

    Returns:
      The estimate in nats, kind "estimate", with the standard error of the evaluation
      by the infinitesimal jackknife, which leaves out that training varies.
      Diagnostics: ``validation_score``, mean log-likelihood of standardized y;
      ``best_step``, 0 when no step improved on the initial network; ``steps``.

    Raises:
      ValueError: for bad samples, or too few of them for the splits and a batch.

    References:
      Cheng et al., CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information,
      2020, section 3.2.
    """
    x, y = check_pair(x, y, minimum=8)
    return _club(key, x, y, leave_one_out=leave_one_out, config=config)


@functools.partial(jax.jit, static_argnames=("leave_one_out", "config"))
def _club(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    leave_one_out: bool,
    config: FitConfig,
) -> Estimate:
    split_key, fit_key = jax.random.split(key)
    fitting, evaluation = split(
        split_key,
        len(x),
        config.evaluation_fraction,
        minimum=config.batch_size,
        purpose="evaluation",
    )
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
