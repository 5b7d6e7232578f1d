"""Clean and poisoned features of Gaussian classes while the poisoned ones collapse.

A sample of class y has clean features c and noisy poisoned features p that share a
signal within the class,

    c = label_scale * mu_y + sqrt(signal_variance) s + sqrt(clean_variance) n_c,
    p = poison_label_scale * nu_y
        + t (sqrt(signal_variance) s + sqrt(residual_variance) n_p) + sigma n,

with s in the first `rank` coordinates, mu_y and nu_y random unit vectors, and classes
equally likely. From t = 1 to t = 0 the poisoned classes collapse to points.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax.information.checks import is_traced


class PathModel(NamedTuple):
    """Gaussian classes with one covariance, all equally likely.

    Attributes:
      clean_means: (K, D).
      poison_means: (K, D).
      covariance: (2 D, 2 D), of clean and noisy poisoned features within a class.
      noise_variance: (), the sigma^2 that is part of the covariance.
    """

    clean_means: jax.Array
    poison_means: jax.Array
    covariance: jax.Array
    noise_variance: jax.Array


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
    """The classes at one point of the path.

    Args:
      key: for the class means; it gives others in float64 than in float32.
      scale: t >= 0, the spread of the poisoned features within classes; 0 is collapse.
      label_scale: length of the clean class means: how much clean features tell of the
        label.
      poison_label_scale: length of the poisoned class means.
      noise_variance: sigma^2 > 0 of every poisoned coordinate: the resolution.
      dim: D, coordinates of either kind of features.
      rank: coordinates of the shared signal, at most D.
      num_classes: K.
      signal_variance: of every coordinate of the signal.
      residual_variance: of every poisoned coordinate, shared with nothing.
      clean_variance: of every clean coordinate, shared with nothing.

    Returns:
      The model.

    Raises:
      ValueError: if the signal has more coordinates than the features, there are fewer
        than two classes, the scale is negative or the noise not positive.
    """
    if not 1 <= rank <= dim:
        raise ValueError(f"rank must be between 1 and dim = {dim}, given {rank}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, given {num_classes}")
    if not is_traced(scale) and not np.asarray(scale) >= 0:
        raise ValueError(f"scale must be >= 0, given {scale}")
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


def path_sample(
    key: jax.Array, model: PathModel, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws clean features, noisy poisoned features and labels.

    Args:
      key: for the samples.
      model: from `poisoning_path`.
      size: N.

    Returns:
      (N, D), (N, D) and (N,) int32.
    """
    key_label, key_noise = jax.random.split(key)
    model = jax.tree.map(jnp.asarray, model)
    means = jnp.concatenate([model.clean_means, model.poison_means], axis=1)
    labels = jax.random.randint(key_label, (size,), 0, len(means), jnp.int32)
    noise = jax.random.normal(key_noise, (size, means.shape[1]))
    samples = means[labels] + noise @ jnp.linalg.cholesky(model.covariance).T
    clean, poison = jnp.split(samples, 2, axis=1)
    return clean, poison, labels
