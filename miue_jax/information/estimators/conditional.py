"""A normal conditional law q(y | x) whose mean and variance a network learns."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.checks import check_pair
from miue_jax.information.estimators.fitting import Fit, FitConfig, fit
from miue_jax.information.estimators.held_out import split
from miue_jax.information.estimators.mlp import Layers, apply_mlp, init_mlp


class Conditional(NamedTuple):
    """Parameters of q(y | x), normal with a diagonal covariance.

    Attributes:
      x_center: (dx,) mean of the training samples.
      x_scale: (dx,) their standard deviation.
      y_center: (dy,) mean of the training samples.
      y_scale: (dy,) their standard deviation.
      layers: of the network that gives means and log-variances of standardized y.
    """

    x_center: jax.Array
    x_scale: jax.Array
    y_center: jax.Array
    y_scale: jax.Array
    layers: Layers


def log_likelihoods(conditional: Conditional, x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Log-likelihoods of all pairs under q.

    Args:
      conditional: q, of `fit_conditional`.
      x: (K, dx) or (K,) float.
      y: (L, dy) or (L,) float.

    Returns:
      (K, L) float, nats; entry i, j is :math:`\log q(y_j | x_i)`.
    """
    x, y = (_matrix(samples) for samples in (x, y))
    standard_x = (x - conditional.x_center) / conditional.x_scale
    standard_y = (y - conditional.y_center) / conditional.y_scale
    # Row by row: as a matrix product, the squares of small residuals would cancel.
    rows = jax.lax.map(
        lambda moments: _log_density(moments[0], moments[1], standard_y),
        _moments(conditional.layers, standard_x),
    )
    return rows - jnp.sum(jnp.log(conditional.y_scale))


def fit_conditional(
    key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 (immutable)
) -> Fit:
    """Trains q(y | x) by maximum likelihood.

    A random share of the samples, `FitConfig.validation_fraction`, decides when to
    stop; the rest trains and gives mean and standard deviation of the inputs.

    Args:
      key: random key of the split, the initial parameters and the batches.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      config: network and training.

    Returns:
      The fit, whose parameters are a `Conditional`.

    Raises:
      ValueError: for bad samples, or fewer than a batch of them for training.
    """
    x, y = check_pair(x, y, minimum=4)
    return _fit_conditional(key, x, y, config=config)


@functools.partial(jax.jit, static_argnames="config")
def _fit_conditional(
    key: jax.Array, x: jax.Array, y: jax.Array, *, config: FitConfig
) -> Fit:
    split_key, init_key, fit_key = jax.random.split(key, 3)
    training, validation = split(
        split_key,
        len(x),
        config.validation_fraction,
        minimum=config.batch_size,
        purpose="validation",
    )
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
    scale = jnp.std(samples, axis=0)
    return jnp.mean(samples, axis=0), jnp.where(scale > 0, scale, 1)


def _matrix(samples: ArrayLike) -> jax.Array:
    samples = jnp.asarray(samples)
    return samples[:, None] if samples.ndim == 1 else samples
