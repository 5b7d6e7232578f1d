"""What clean and poisoned features tell of each other along the poisoning path."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.information.tasks.poisoning_path import (
    PathModel,
    path_sample,
    poisoning_path,
)
from miue_jax.information.tasks.task import Task, double_precision

_DRAWS = 20000

# Of clean features that identify the class, and of those that hardly tell of it.
LABEL_SCALES = {"informative": 1.0, "weak": 0.16}


class PathInformation(NamedTuple):
    """Information along the path, () float each; nats but for the accuracy.

    Attributes:
      label_clean: I(c; Y).
      label_poison: I(Y; p).
      within_class: I(c; p | Y), in closed form.
      total: I(c; p).
      residual: H(Y | p), what is left to learn of the label of poisoned features.
      logdet: W, half the log-determinant of I + Cov(poisoned | Y) / sigma^2.
      bayes_accuracy: of the best classifier of clean features, between 0 and 1.
    """

    label_clean: jax.Array
    label_poison: jax.Array
    within_class: jax.Array
    total: jax.Array
    residual: jax.Array
    logdet: jax.Array
    bayes_accuracy: jax.Array


def path_information(
    key: jax.Array, model: PathModel, *, size: int
) -> tuple[PathInformation, PathInformation]:
    r"""Exact information of the model, up to Monte-Carlo error.

    I(c; p | Y) is closed; the rest are means of entropies of exact posteriors over
    samples, by I(c; Y) = H(Y) - E H(Y | c) and

    .. math:: I(c; p) = I(c; p | Y) + I(Y; c) + I(Y; p) - I(Y; c, p).

    Args:
      key: for the samples.
      model: from `poisoning_path`.
      size: number of samples.

    Returns:
      The values and their standard errors.

    References:
      docs/theory.md, T1 (i).
    """
    model = jax.tree.map(jnp.asarray, model)
    clean, poison, _ = path_sample(key, model, size)
    both = jnp.concatenate([clean, poison], axis=1)
    means = jnp.concatenate([model.clean_means, model.poison_means], axis=1)
    dim = clean.shape[1]
    clean_covariance = model.covariance[:dim, :dim]
    poison_covariance = model.covariance[dim:, dim:]

    of_clean = _log_posterior(clean, model.clean_means, clean_covariance)
    of_poison = _log_posterior(poison, model.poison_means, poison_covariance)
    of_both = _log_posterior(both, means, model.covariance)
    label_clean = _information(of_clean)
    label_poison = _information(of_poison)
    within = _logdet(clean_covariance) + _logdet(poison_covariance)
    within = (within - _logdet(model.covariance)) / 2
    logdet = (_logdet(poison_covariance) - dim * jnp.log(model.noise_variance)) / 2
    values = PathInformation(
        label_clean=label_clean,
        label_poison=label_poison,
        within_class=jnp.full(size, within),
        total=within + label_clean + label_poison - _information(of_both),
        residual=jnp.log(len(means)) - label_poison,
        logdet=jnp.full(size, logdet),
        bayes_accuracy=jnp.exp(jnp.max(of_clean, axis=1)),
    )
    return (
        jax.tree.map(jnp.mean, values),
        jax.tree.map(lambda value: jnp.std(value, ddof=1) / np.sqrt(size), values),
    )


def path_pointwise(model: PathModel, clean: jax.Array, poison: jax.Array) -> jax.Array:
    """The exact log p(c, p) / (p(c) p(p)) of samples.

    Args:
      model: from `poisoning_path`.
      clean: (N, D).
      poison: (N, D), with its noise.

    Returns:
      (N,) nats.
    """
    model = jax.tree.map(jnp.asarray, model)
    dim = clean.shape[1]
    means = jnp.concatenate([model.clean_means, model.poison_means], axis=1)
    both = jnp.concatenate([clean, poison], axis=1)
    density = _log_density(both, means, model.covariance)
    density -= _log_density(clean, model.clean_means, model.covariance[:dim, :dim])
    return density - _log_density(
        poison, model.poison_means, model.covariance[dim:, dim:]
    )


def path_task(name: str, model: PathModel) -> Task:
    """One point of the path as a task: x clean, y noisy poisoned features.

    Args:
      name: of the task.
      model: from `poisoning_path`; values.

    Returns:
      The task; its information is the mean over 20,000 samples (key 0).
    """
    model = jax.tree.map(lambda array: np.asarray(array, np.float64), model)
    value, error = double_precision(_truth, jax.random.key(0), model)
    num_classes, dim = model.clean_means.shape
    return Task(
        name=name,
        sample=lambda key, size: path_sample(key, model, size),
        information=float(value.total),
        standard_error=float(error.total),
        dim_x=dim,
        dim_y=dim,
        num_classes=num_classes,
        pointwise=lambda x, y: path_pointwise(model, x, y),
    )


def named_path(name: str, kind: str, scale: float) -> Task:
    """The path with the default settings and class means of key 0 (float64) as a task.

    Args:
      name: of the task.
      kind: of `LABEL_SCALES`.
      scale: t.

    Returns:
      The task.
    """
    model = double_precision(
        poisoning_path,
        jax.random.key(0),
        scale=scale,
        label_scale=LABEL_SCALES[kind],
    )
    return path_task(name, model)


def _truth(key: jax.Array, model: PathModel) -> tuple[PathInformation, PathInformation]:
    return path_information(key, model, size=_DRAWS)


def _log_class_densities(
    samples: jax.Array, means: jax.Array, covariance: jax.Array
) -> jax.Array:
    """Log-densities of the classes up to the constant of 2 pi: (N, K)."""
    factor = jnp.linalg.cholesky(covariance)
    solve = jax.scipy.linalg.solve_triangular
    whitened = solve(factor, samples.T, lower=True).T
    centers = solve(factor, means.T, lower=True).T
    squares = jnp.sum(whitened**2, axis=1)[:, None] + jnp.sum(centers**2, axis=1)
    distances = squares - 2 * whitened @ centers.T
    return -distances / 2 - jnp.sum(jnp.log(jnp.diagonal(factor)))


def _log_density(
    samples: jax.Array, means: jax.Array, covariance: jax.Array
) -> jax.Array:
    densities = _log_class_densities(samples, means, covariance)
    return jax.nn.logsumexp(densities, axis=1) - jnp.log(len(means))


def _log_posterior(
    samples: jax.Array, means: jax.Array, covariance: jax.Array
) -> jax.Array:
    return jax.nn.log_softmax(_log_class_densities(samples, means, covariance), axis=1)


def _information(log_posterior: jax.Array) -> jax.Array:
    """Log K less the entropy of the posterior, (N,): what samples tell of labels."""
    entropy = -jnp.sum(jnp.exp(log_posterior) * log_posterior, axis=1)
    return jnp.log(log_posterior.shape[1]) - entropy


def _logdet(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.slogdet(matrix)[1]
