"""Mutual information of a label and a continuous variable, from nearest neighbors."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from miue_jax.information._core import (
    Estimate,
    center,
    check_class_sizes,
    check_counts,
    check_labels,
    check_samples,
    whole_digamma,
)
from miue_jax.information.estimators import neighbors as nearest


def ross(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    neighbors: int = 3,
    standardize: bool = True,
    chunk_size: int = 512,
    mesh: Mesh | None = None,
) -> Estimate:
    r"""Ross's estimate of I(X; label) for continuous x.

    With :math:`m_i - 1` the number of other samples, of all classes, strictly closer
    than the k-th neighbor of `i` in its own class,

    .. math:: \hat I = \psi(N) + \psi(k)
              - \frac1N \sum_i \bigl[\psi(n_{y_i}) + \psi(m_i)\bigr].

    Assumes independent samples, with a density within each class. Neither a lower nor
    an upper bound. One class gives exactly 0, well-separated classes about H(Y).

    Args:
      x: (N, D) or (N,).
      labels: (N,) integers in [0, num_classes).
      num_classes: number of classes; absent ones have no weight.
      neighbors: k, less than the number of samples of any class present.
      standardize: scale every column to unit variance.
      chunk_size: query rows at a time, per device.
      mesh: devices to split the query rows over, along all of its axes.

    Returns:
      The estimate, nats, without standard error. Diagnostics and behavior under
      `jax.jit` as in `ksg_conditional`. If the k-th neighbor coincides with a sample, k
      and m are replaced by the numbers of samples that coincide with it, in its class
      and overall, itself included (``degenerate_fraction``): classes that have
      collapsed to points give about H(Y).

    Raises:
      ValueError: for bad samples or labels, a class with no more samples than
        neighbors, or a number that is not positive.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> labels = np.arange(100) % 2
      >>> x = 10 * labels + np.random.default_rng(0).standard_normal(100)
      >>> estimate = estimators.ross(x, labels, num_classes=2)
      >>> abs(float(estimate.value) - 0.693) < 0.02  # log 2
      True

    References:
      Ross, Mutual information between discrete and continuous data sets, 2014, eq. 4.
    """
    check_counts(neighbors=neighbors, num_classes=num_classes, chunk_size=chunk_size)
    dtype = check_samples("x", x, minimum=neighbors + 1).dtype
    samples = center(x, dtype, standardize=standardize)
    largest = jnp.max(jnp.abs(samples))
    samples /= jnp.where(largest > 0, largest, 1)  # squares must not overflow
    checked = check_labels(labels, len(samples), num_classes=num_classes)
    check_class_sizes(checked, num_classes, neighbors)
    chunk = nearest.chunk_rows(len(samples), chunk_size, mesh)
    value, diagnostics = _ross(samples, checked, num_classes, neighbors, chunk, mesh)
    diagnostics["constant_columns"] = jnp.sum(jnp.all(samples == 0, axis=0))
    return Estimate(value, jnp.full_like(value, jnp.nan), "estimate", diagnostics)


@functools.partial(jax.jit, static_argnums=range(2, 6))
def _ross(
    samples: jax.Array,
    labels: jax.Array,
    num_classes: int,
    neighbors: int,
    chunk: int,
    mesh: Mesh | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    total = len(labels)
    sizes = jnp.bincount(labels, length=num_classes)
    psi = jnp.asarray(whole_digamma(total), samples.dtype)

    def terms(operands, rows):
        points, labels, sizes, psi = operands
        distances = nearest.squared_distances(points, rows)
        others = rows[:, None] != jnp.arange(total)
        distances = jnp.where(others, distances, jnp.inf)
        same_class = labels[rows][:, None] == labels
        within = jnp.where(same_class, distances, jnp.inf)
        radius = nearest.kth_smallest(within, neighbors)
        tied, tied_within = [
            1 + jnp.sum(d == 0, axis=1, dtype=jnp.int32) for d in (distances, within)
        ]
        near = 1 + nearest.count(distances, radius, strictly=True)
        count = jnp.where(radius == 0, tied_within, neighbors)
        near = jnp.where(radius == 0, tied, near)
        term = psi[total] + psi[count] - psi[sizes[labels[rows]]] - psi[near]
        return nearest.Term(term, radius, tied > 1)

    operands = nearest.prepare(samples), labels, sizes, psi
    results = nearest.map_rows(terms, operands, total, chunk=chunk, mesh=mesh)
    return nearest.average(results, labels, num_classes)
