r"""Clean and poisoned features of Gaussian classes while the poisoned ones collapse.

A sample of class y has clean features c and noisy poisoned features p that share a
signal within the class,

.. math:: c &= \lambda_c \mu_y + \sqrt{v_s}\, s + \sqrt{v_c}\, n_c, \\
          p &= \lambda_p \nu_y + t (\sqrt{v_s}\, s + \sqrt{v_r}\, n_p) + \sigma n,

with s in the first `rank` coordinates, :math:`\mu_y` and :math:`\nu_y` random unit
vectors, :math:`\lambda` the label scales, v the variances of signal, clean and residual
parts, and classes equally likely. From t = 1 to t = 0 the poisoned classes collapse to
points.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax._arguments import check_scalar
from miue_jax._checks import shown
from miue_jax.information._core import check_counts, check_key, is_traced
from miue_jax.information.tasks.task import Task, double_precision

_DRAWS = 20000

# Of clean features that identify the class, and of those that hardly reveal it.
LABEL_SCALES = {"informative": 1.0, "weak": 0.16}


class PathModel(NamedTuple):
    """Gaussian classes with one covariance, all equally likely.

    Attributes:
      clean_means: (K, D).
      poison_means: (K, D).
      covariance: (2 D, 2 D), of clean and noisy poisoned features within a class.
      noise_variance: (), the sigma^2 that is part of the covariance.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> model = tasks.poisoning_path(jax.random.key(0), scale=0.5, dim=8)
      >>> isinstance(model, tasks.PathModel), model.covariance.shape
      (True, (16, 16))
    """

    clean_means: jax.Array
    poison_means: jax.Array
    covariance: jax.Array
    noise_variance: jax.Array


class PathInformation(NamedTuple):
    """Information along the path, () float each, in nats except for the accuracy.

    Attributes:
      label_clean: I(c; Y).
      label_poison: I(Y; p).
      within_class: I(c; p | Y), in closed form.
      total: I(c; p).
      residual: H(Y | p), what poisoned features leave unknown of the label.
      logdet: W, half the log-determinant of I + Cov(poisoned | Y) / sigma^2.
      bayes_accuracy: accuracy of the best classifier of clean features, in [0, 1].

    Example:
      >>> from miue_jax.information import tasks
      >>> tasks.PathInformation._fields[:4]
      ('label_clean', 'label_poison', 'within_class', 'total')
    """

    label_clean: jax.Array
    label_poison: jax.Array
    within_class: jax.Array
    total: jax.Array
    residual: jax.Array
    logdet: jax.Array
    bayes_accuracy: jax.Array


def poisoning_path(
    key: jax.Array,
    *,
    scale: ArrayLike,
    label_scale: ArrayLike = 1.0,
    poison_label_scale: ArrayLike = 1.5,
    noise_variance: ArrayLike = 0.05,
    dim: int = 32,
    rank: int = 8,
    num_classes: int = 10,
    signal_variance: ArrayLike = 0.048,
    residual_variance: ArrayLike = 0.002,
    clean_variance: ArrayLike = 0.0153,
) -> PathModel:
    """Builds the classes at one point of the path.

    Args:
      key: random key for the class means, which differ between float32 and float64.
      scale: t >= 0, the spread of the poisoned features within classes; 0 is collapse.
      label_scale: length of the clean class means: how much clean features reveal about
        the label.
      poison_label_scale: length of the poisoned class means.
      noise_variance: sigma^2 > 0 of every poisoned coordinate: the resolution.
      dim: D, coordinates of either kind of features.
      rank: coordinates of the shared signal, at most D.
      num_classes: K.
      signal_variance: variance of every coordinate of the signal.
      residual_variance: unshared variance of every poisoned coordinate.
      clean_variance: unshared variance of every clean coordinate.

    Returns:
      The model.

    Raises:
      ValueError: if the signal has more coordinates than the features, there are fewer
        than two classes, a scale or variance is negative or not finite, or the noise
        not positive.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> model = tasks.poisoning_path(jax.random.key(0), scale=0.0, dim=8)
      >>> round(float(model.covariance[8, 8]), 4)  # collapsed: the noise is left
      0.05
    """
    check_key(key)
    check_counts(dim=dim, rank=rank, num_classes=num_classes)
    for name, value, least in (
        ("scale", scale, 0),
        ("label_scale", label_scale, -np.inf),
        ("poison_label_scale", poison_label_scale, -np.inf),
        ("noise_variance", noise_variance, 0),
        ("signal_variance", signal_variance, 0),
        ("residual_variance", residual_variance, 0),
        ("clean_variance", clean_variance, 0),
    ):
        check_scalar(name, value)
        if is_traced(value):
            continue
        if not (np.isfinite(value) and np.asarray(value) >= least):
            raise ValueError(f"{name} is {value}; it must be finite and >= {least}")
    if not 1 <= rank <= dim:
        raise ValueError(f"rank must be between 1 and dim = {dim}, given {rank}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, given {num_classes}")
    if not is_traced(noise_variance) and not np.asarray(noise_variance) > 0:
        raise ValueError(f"noise_variance must be > 0, given {noise_variance}")
    means = jax.random.normal(key, (2, num_classes, dim))
    means /= jnp.linalg.norm(means, axis=-1, keepdims=True)
    signal = jnp.diag(jnp.where(jnp.arange(dim) < rank, signal_variance, 0.0))
    eye = jnp.eye(dim)
    scale = jnp.asarray(scale, means.dtype)
    clean = signal + clean_variance * eye
    poison = scale**2 * (signal + residual_variance * eye) + noise_variance * eye
    covariance = jnp.block([[clean, scale * signal], [scale * signal, poison]])
    return PathModel(
        clean_means=label_scale * means[0],
        poison_means=poison_label_scale * means[1],
        covariance=covariance,
        noise_variance=jnp.asarray(noise_variance, means.dtype),
    )


def path_information(
    key: jax.Array, model: PathModel, *, size: int
) -> tuple[PathInformation, PathInformation]:
    r"""Exact information of the model, up to Monte-Carlo error.

    I(c; p | Y) is in closed form; the rest are means of entropies of exact posteriors
    over samples, by I(c; Y) = H(Y) - E H(Y | c) and

    .. math:: I(c; p) = I(c; p | Y) + I(Y; c) + I(Y; p) - I(Y; c, p).

    Args:
      key: random key for the samples.
      model: from `poisoning_path`.
      size: number of samples.

    Returns:
      The values and their standard errors, NaN for one sample.

    Raises:
      ValueError: for a key, a model or a number of samples that is none.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> model = tasks.poisoning_path(jax.random.key(0), scale=1.0)
      >>> value, error = tasks.path_information(jax.random.key(1), model, size=100)
      >>> round(float(value.within_class), 2), round(float(value.logdet), 2)
      (1.81, 3.24)

    References:
      docs/theory.md, T1 (i).
    """
    check_key(key)
    check_counts(size=size)
    if not isinstance(model, PathModel):
        raise ValueError(f"model is {shown(model)}; it must be a PathModel")
    model = jax.tree.map(jnp.asarray, model)
    clean, poison, _ = _sample(key, model, size)
    means, both, marginals = _laws(model, clean, poison)
    (_, _, clean_covariance), (_, _, poison_covariance) = marginals
    of_clean, of_poison, of_both = (
        jax.nn.log_softmax(_log_class_densities(*law), axis=1)
        for law in (*marginals, (both, means, model.covariance))
    )
    label_clean = _information(of_clean)
    label_poison = _information(of_poison)
    within = _logdet(clean_covariance) + _logdet(poison_covariance)
    within = (within - _logdet(model.covariance)) / 2
    dim = clean.shape[1]
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


def path_task(name: str, model: PathModel) -> Task:
    """One point of the path as a task: x clean, y noisy poisoned features.

    Args:
      name: name of the task.
      model: from `poisoning_path`; not traced.

    Returns:
      The task; its information is the mean over 20,000 samples (key 0).

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> model = tasks.poisoning_path(
      ...     jax.random.key(0), scale=0.5, dim=2, rank=1, num_classes=2
      ... )
      >>> task = tasks.path_task("small", model)
      >>> task.dim_x, task.num_classes, task.standard_error < 0.01
      (2, 2, True)
    """
    model = jax.tree.map(lambda array: np.asarray(array, np.float64), model)
    value, error = double_precision(_truth, jax.random.key(0), model)
    num_classes, dim = model.clean_means.shape
    return Task(
        name=name,
        sample=lambda key, size: _sample(key, model, size),
        information=float(value.total),
        standard_error=float(error.total),
        dim_x=dim,
        dim_y=dim,
        num_classes=num_classes,
        pointwise=lambda x, y: _pointwise(model, x, y),
    )


def named_path(name: str, kind: str, scale: float) -> Task:
    """The path with the default settings and class means of key 0 (float64) as a task.

    The kind is one of `LABEL_SCALES`, the scale is t.
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


def _sample(
    key: jax.Array, model: PathModel, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    key_label, key_noise = jax.random.split(key)
    model = jax.tree.map(jnp.asarray, model)
    means = jnp.concatenate([model.clean_means, model.poison_means], axis=1)
    labels = jax.random.randint(key_label, (size,), 0, len(means), jnp.int32)
    noise = jax.random.normal(key_noise, (size, means.shape[1]))
    samples = means[labels] + noise @ jnp.linalg.cholesky(model.covariance).T
    clean, poison = jnp.split(samples, 2, axis=1)
    return clean, poison, labels


def _pointwise(model: PathModel, clean: jax.Array, poison: jax.Array) -> jax.Array:
    """The exact log p(c, p) / (p(c) p(p)) of samples, (N,) nats."""
    model = jax.tree.map(jnp.asarray, model)
    means, both, (of_clean, of_poison) = _laws(model, clean, poison)
    density = _log_density(both, means, model.covariance)
    return density - _log_density(*of_clean) - _log_density(*of_poison)


def _laws(
    model: PathModel, clean: jax.Array, poison: jax.Array
) -> tuple[jax.Array, jax.Array, tuple[tuple[jax.Array, ...], ...]]:
    """Joint means and samples, and (samples, means, covariance) of either side."""
    dim = clean.shape[1]
    means = jnp.concatenate([model.clean_means, model.poison_means], axis=1)
    both = jnp.concatenate([clean, poison], axis=1)
    of_clean = clean, model.clean_means, model.covariance[:dim, :dim]
    of_poison = poison, model.poison_means, model.covariance[dim:, dim:]
    return means, both, (of_clean, of_poison)


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


def _information(log_posterior: jax.Array) -> jax.Array:
    """Log K minus the entropy of the posterior, (N,): information about the label."""
    entropy = -jnp.sum(jnp.exp(log_posterior) * log_posterior, axis=1)
    return jnp.log(log_posterior.shape[1]) - entropy


def _logdet(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.slogdet(matrix)[1]
