"""Variational lower bounds with a trained critic, evaluated on held-out samples."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._arguments import check_scalar
from miue_jax.information._core import Estimate, check_counts, check_key, check_pair
from miue_jax.information.estimators import score_bounds
from miue_jax.information.estimators.critic import (
    BOUNDS,
    Bound,
    critic_scores,
    fit_critic,
)
from miue_jax.information.estimators.fitting import FitConfig, check_config, split


def variational(
    key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    *,
    bound: Bound = "infonce",
    clip: float = 5.0,
    embedding: int = 32,
    config: FitConfig = FitConfig(),  # noqa: B008 (immutable)
) -> Estimate:
    r"""Trains a critic and evaluates a variational bound once, on held-out samples.

    The samples are split at random in three: `FitConfig.evaluation_fraction` of them
    give the value and the standard error, the rest train the critic and decide when to
    stop (`fit_critic`). The population value, for the critic that was found and
    infinitely many evaluation samples, is

    - "infonce": a lower bound. Held-out evaluation with K samples per block is a lower
      bound on average for every K, and never above log K.
    - "nwj": a lower bound, also on average for every number of evaluation samples.
    - "dv": a lower bound, but finite evaluation adds a positive bias, about the
      variance of the estimated partition term over twice its square: not a certified
      limit.
    - "smile": neither, as scores are clipped in the partition term only.

    No method can certify with confidence, from a sample of N points, a lower bound much
    above log N; a value above is flagged. Training adds variance that the standard
    error excludes: repeat with several keys (`jax.vmap` over them). Assumes independent
    samples of a law, and nothing about the law.

    Args:
      key: random key for the splits and the training.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      bound: "infonce", "nwj", "dv" or "smile" (`score_bounds`).
      clip: clipping of "smile", nats.
      embedding: dimension of the separable critic.
      config: network, training and sizes of the splits.

    Returns:
      The estimate in nats, kind "lower" ("estimate" for "smile"), with the standard
      error of the evaluation by the infinitesimal jackknife. Diagnostics: ``ceiling``,
      log K for "infonce" and infinity for the others; ``near_ceiling``, whether the
      value is within 1 nat of it, so that it says little about the information;
      ``log_samples``, log of the number of evaluation samples; ``above_log_samples``,
      whether the value exceeds it; ``validation_score``, of the training objective;
      ``best_step``, 0 if no step improved on the initial critic; ``steps``.

    Raises:
      ValueError: for bad samples, too few of them for the splits and a batch, an
        unknown bound or a clip that is not positive.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x = np.random.default_rng(0).standard_normal((60, 1))
      >>> config = estimators.FitConfig(hidden=4, depth=1, batch_size=16, max_steps=4)
      >>> estimate = estimators.variational(jax.random.key(0), x, x, config=config)
      >>> estimate.kind, round(float(estimate.diagnostics["ceiling"]), 3)  # log 12
      ('lower', 2.485)

    References:
      Poole et al., On Variational Bounds of Mutual Information, 2019; Song and Ermon,
      Understanding the Limitations of Variational Mutual Information Estimators, 2020;
      McAllester and Stratos, Formal Limitations on the Measurement of Mutual
      Information, 2020.
    """
    _checks.check_choice("bound", bound, BOUNDS)
    check_key(key)
    check_config(config)
    check_counts(embedding=embedding)
    check_scalar("clip", clip)
    if not clip > 0:
        raise ValueError(f"clip is {clip}; it must be positive")
    x, y = check_pair(x, y, minimum=8)
    return _variational(key, x, y, bound, clip, embedding, config)


@functools.partial(jax.jit, static_argnums=range(3, 7))
def _variational(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    bound: Bound,
    clip: float,
    embedding: int,
    config: FitConfig,
) -> Estimate:
    split_key, fit_key = jax.random.split(key)
    fitting, evaluation = split(split_key, len(x), config, "evaluation")
    trained = fit_critic(
        fit_key, x[fitting], y[fitting], bound=bound, embedding=embedding, config=config
    )
    function = {
        "infonce": score_bounds.infonce,
        "nwj": score_bounds.nwj,
        "dv": score_bounds.donsker_varadhan,
        "smile": functools.partial(score_bounds.smile, clip=clip),
    }[bound]
    result = score_bounds.evaluate(
        functools.partial(critic_scores, trained.params),
        lambda scores, weights: function(scores, weights=weights),
        x[evaluation],
        y[evaluation],
        batch_size=config.evaluation_batch_size,
    )
    ceiling = math.log(result.block_size) if bound == "infonce" else math.inf
    log_samples = math.log(result.num_samples)
    diagnostics = {
        "ceiling": jnp.asarray(ceiling, x.dtype),
        "near_ceiling": result.value > ceiling - 1,
        "log_samples": jnp.asarray(log_samples, x.dtype),
        "above_log_samples": result.value > log_samples,
        "validation_score": trained.score,
        "best_step": trained.best_step,
        "steps": trained.steps,
    }
    kind = "estimate" if bound == "smile" else "lower"
    return Estimate(result.value, result.standard_error, kind, diagnostics)
