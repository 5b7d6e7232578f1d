"""A separable critic g(x)'h(y), trained to tell joint from independent pairs."""

import functools
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import (
    as_matrix,
    check_counts,
    check_key,
    check_pair,
    deviation,
)
from miue_jax.information.estimators import score_bounds
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

Bound = Literal["infonce", "nwj", "dv", "smile"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)

# Training objectives. The gradients of NWJ and SMILE themselves are dominated by a few
# pairs; Jensen-Shannon has the same best critic and bounded gradients.
_OBJECTIVES = {
    "infonce": score_bounds.infonce,
    "nwj": score_bounds.jensen_shannon,
    "dv": score_bounds.donsker_varadhan,
    "smile": score_bounds.jensen_shannon,
}
_EMA_DECAY = 0.99


class Tower(NamedTuple):
    """One side of a separable critic.

    Attributes:
      center: (D,) median of the training samples.
      scale: (D,) spread of the training samples.
      layers: layers of the network.
    """

    center: jax.Array
    scale: jax.Array
    layers: Layers


class Critic(NamedTuple):
    """Parameters of a separable critic: the towers of g and h."""

    x: Tower
    y: Tower


def critic_scores(critic: Critic, x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Scores all pairs, for the functions of `score_bounds`.

    Args:
      critic: the parameters found by `fit_critic`.
      x: (K, dx) or (K,) float.
      y: (L, dy) or (L,) float.

    Returns:
      (K, L) float, ``scores[i, j]`` of ``x[i]`` and ``y[j]``.
    """
    g, h = critic
    return _scores(
        (g.layers, h.layers),
        _standardize(g.center, g.scale, as_matrix(x)),
        _standardize(h.center, h.scale, as_matrix(y)),
    )


def fit_critic(
    key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    *,
    bound: Bound = "infonce",
    embedding: int = 32,
    config: FitConfig = FitConfig(),  # noqa: B008 (immutable)
) -> Fit:
    r"""Trains a separable critic :math:`f(x, y) = g(x)^T h(y) / E` by Adam.

    A random share of the samples, `FitConfig.validation_fraction`, decides when to
    stop; the rest are for training and set center and scale of the inputs: median and
    median absolute deviation (standard deviation if more than half are equal), followed
    by asinh, so that heavy tails neither set the scale nor saturate the network.

    "infonce" and "dv" are trained for their own value, the latter as MINE: in the
    gradient of the log partition term, a moving average of the partition term is the
    denominator. "nwj" and "smile" are trained for the Jensen-Shannon objective.

    On the samples passed here the value of a bound is not a bound, because the critic
    depends on them: evaluate it on others, as `variational` does.

    Args:
      key: random key for the split, the initial parameters and the batches.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      bound: which bound the critic is for.
      embedding: E, dimension of g(x) and h(y).
      config: network and training.

    Returns:
      The fit, whose parameters are a `Critic`.

    Raises:
      ValueError: for bad samples, such as float64 ones that vary too little about a
        large mean for float32, fewer than a batch of them for training, or an unknown
        bound.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> from miue_jax.information.estimators.critic import critic_scores
      >>> x = np.random.default_rng(0).standard_normal((40, 3))
      >>> config = estimators.FitConfig(hidden=4, depth=1, batch_size=16, max_steps=4)
      >>> fit = estimators.fit_critic(jax.random.key(0), x, x[:, :1], config=config)
      >>> critic_scores(fit.params, x[:5], x[:7, :1]).shape
      (5, 7)

    References:
      Belghazi et al., Mutual Information Neural Estimation, 2018, section 3.2 (moving
      average); Song and Ermon, Understanding the Limitations of Variational Mutual
      Information Estimators, 2020 (separable critic, Jensen-Shannon objective).
    """
    _checks.check_choice("bound", bound, BOUNDS)
    check_key(key)
    check_config(config)
    check_counts(embedding=embedding)
    # Scores of other samples are taken about the same origin.
    x, y = check_pair(x, y, minimum=4, shift=False)
    return _fit_critic(key, x, y, bound, embedding, config)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _fit_critic(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    bound: Bound,
    embedding: int,
    config: FitConfig,
) -> Fit:
    split_key, x_key, y_key, fit_key = jax.random.split(key, 4)
    training, validation = split(split_key, len(x), config, "validation")
    x_scaling, y_scaling = _scaling(x[training]), _scaling(y[training])
    x, y = _standardize(*x_scaling, x), _standardize(*y_scaling, y)
    hidden = (config.hidden,) * config.depth
    layers = (
        init_mlp(x_key, (x.shape[1], *hidden, embedding), x.dtype),
        init_mlp(y_key, (y.shape[1], *hidden, embedding), y.dtype),
    )
    train_x, train_y = x[training], y[training]
    objective = _OBJECTIVES[bound]

    def loss(
        layers: tuple[Layers, Layers], log_average: jax.Array, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        scores = _scores(layers, train_x[indices], train_y[indices])
        if bound == "dv":
            return _mine_loss(scores, log_average)
        return -objective(scores), log_average

    def score(layers: tuple[Layers, Layers]) -> jax.Array:
        values = score_bounds.block_values(
            lambda x, y: objective(_scores(layers, x, y)),
            x[validation],
            y[validation],
            batch_size=config.evaluation_batch_size,
        )
        return jnp.mean(values)

    # The average starts at the partition term of scores that are 0.
    start = jnp.zeros((), x.dtype)
    result = fit(
        fit_key, layers, start, loss, score, num_samples=len(training), config=config
    )
    g, h = result.params
    critic = Critic(Tower(*x_scaling, g), Tower(*y_scaling, h))
    return result._replace(params=critic)


def _scores(layers: tuple[Layers, Layers], x: jax.Array, y: jax.Array) -> jax.Array:
    g, h = apply_mlp(layers[0], x), apply_mlp(layers[1], y)
    # The mean, not the sum: scores that start large are fitted to single samples before
    # they shrink.
    return g @ h.T / g.shape[1]


def _mine_loss(
    scores: jax.Array, log_average: jax.Array
) -> tuple[jax.Array, jax.Array]:
    joint = jnp.mean(jnp.diagonal(scores))
    log_partition = joint - score_bounds.donsker_varadhan(scores)
    log_average = jnp.logaddexp(
        log_average + math.log(_EMA_DECAY),
        jax.lax.stop_gradient(log_partition) + math.log1p(-_EMA_DECAY),
    )
    return jnp.exp(log_partition - log_average) - joint, log_average


def _scaling(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    center = jnp.median(samples, axis=0)
    # 1.4826: the standard deviation of a normal law over its median absolute deviation.
    spread = 1.4826 * jnp.median(jnp.abs(samples - center), axis=0)
    scale = jnp.where(spread > 0, spread, deviation(samples))
    return center, jnp.where(scale > 0, scale, 1)


def _standardize(center: jax.Array, scale: jax.Array, samples: jax.Array) -> jax.Array:
    return jnp.arcsinh((samples - center) / scale)
