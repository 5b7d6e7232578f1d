"""Mutual information of a label and a continuous variable, from nearest neighbors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import (
    Estimate,
    center_unrounded,
    check_class_sizes,
    check_counts,
    check_key,
    check_labels,
    is_traced,
    known_samples,
    round_together,
    where_finite,
    whole_digamma,
)
from miue_jax.information.estimators import neighbor_matrix
from miue_jax.information.estimators import neighbors as nearest

# Samples up to which a CPU, on the host, is done before a program is compiled.
_FEW = 5000


def ross(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    neighbors: int = 3,
    standardize: bool = True,
    jitter_key: jax.Array | None = None,
    chunk_size: int = 512,
    mesh: Mesh | None = None,
) -> Estimate:
    r"""Ross's estimate of I(X; label) for continuous x.

    With :math:`m_i - 1` the number of other samples, of all classes, strictly closer
    than the k-th neighbor of `i` in its own class,

    .. math:: \hat I = \psi(N) + \psi(k)
              - \frac1N \sum_i \bigl[\psi(n_{y_i}) + \psi(m_i)\bigr].

    Where several samples are as far as the k-th neighbor, as in rounded data, all of
    them count, in k and in m (see `ksg`).

    Assumes independent samples, with a density within each class. Neither a lower nor
    an upper bound. One class gives exactly 0, well-separated classes about H(Y).

    Args:
      x: (N, D) or (N,).
      labels: (N,) integers in [0, num_classes).
      num_classes: number of classes; absent ones have no weight.
      neighbors: k, less than the number of samples of any class present.
      standardize: scale every column to unit variance.
      jitter_key: breaks ties of x, see `ksg`.
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
    _checks.check_flag("standardize", standardize)
    if jitter_key is not None:
        check_key(jitter_key, "jitter_key")
    _, dtype = known_samples("x", x, minimum=neighbors + 1)
    centered = center_unrounded(x, dtype, standardize=standardize)
    (samples,) = round_together([centered], dtype)
    if jitter_key is not None:
        samples = nearest.jitter(jitter_key, samples)
    largest = jnp.max(jnp.abs(samples))
    samples /= jnp.where(largest > 0, largest, 1)  # squares must not overflow
    checked = check_labels(labels, len(samples), num_classes=num_classes)
    check_class_sizes(checked, num_classes, neighbors)
    traced = is_traced(samples, checked)
    on_cpu = not traced and all(d.platform == "cpu" for d in samples.devices())
    if on_cpu and mesh is None and len(samples) <= _FEW:
        value, diagnostics = _on_host(samples, np.asarray(checked), neighbors)
    else:
        chunk = nearest.chunk_rows(len(samples), chunk_size, mesh)
        static = num_classes, neighbors, chunk, mesh
        value, diagnostics = nearest.in_two_stages(
            lambda *stage: _ross(samples, checked, *static, *stage), traced=traced
        )
    value = where_finite(value, x)
    diagnostics["constant_columns"] = jnp.sum(jnp.all(samples == 0, axis=0))
    return Estimate(value, jnp.full_like(value, jnp.nan), "estimate", diagnostics)


def _on_host(
    samples: jax.Array, labels: np.ndarray, neighbors: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    array, dtype = np.asarray(samples), samples.dtype
    found = neighbor_matrix.within_classes(
        *(array, labels, neighbors), held=nearest.known_ties(array), dtype=dtype
    )
    psi = whole_digamma(len(labels))
    terms = psi[len(labels)] + psi[found.within]
    terms -= psi[np.bincount(labels)[labels]] + psi[found.near[0]]
    shares = {
        "tie_fraction": np.mean(found.tied),
        "degenerate_fraction": np.mean(found.radius == 0),
        "undersized_fraction": 0,
    }
    diagnostics = {name: jnp.asarray(share, dtype) for name, share in shares.items()}
    return jnp.asarray(np.mean(terms), dtype), diagnostics


@functools.partial(jax.jit, static_argnums=range(2, 8))
def _ross(
    samples: jax.Array,
    labels: jax.Array,
    num_classes: int,
    neighbors: int,
    chunk: int,
    mesh: Mesh | None,
    origins: int,
    by_differences: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    total = len(labels)
    sizes = jnp.bincount(labels, length=num_classes)
    psi = jnp.asarray(whole_digamma(total), samples.dtype)

    def terms(operands, rows):
        points, labels, sizes, psi, held = operands
        others = rows[:, None] != jnp.arange(total)
        same_class = labels[rows][:, None] == labels

        def evaluate(by_differences: bool) -> nearest.Term:
            distances = nearest.squared_distances(
                points, rows, by_differences=by_differences
            )
            distances = jnp.where(others, distances, jnp.inf)
            within = jnp.where(same_class, distances, jnp.inf)
            radius = nearest.kth_smallest(within, neighbors)
            gram = nearest.is_gram(points, by_differences)
            ties = nearest.Ties(held, gram)
            tied, tied_within = [
                1 + jnp.sum(d == 0, axis=1, dtype=jnp.int32)
                for d in (distances, within)
            ]
            near, count = (
                ties.near(distances, radius),
                ties.within(within, radius, neighbors),
            )
            count = jnp.where(radius == 0, tied_within, count)
            near = jnp.where(radius == 0, tied, near)
            term = psi[total] + psi[count] - psi[sizes[labels[rows]]] - psi[near]
            lost = nearest.unresolved(points, rows, radius) & gram
            return nearest.Term(term, radius, tied > 1, lost)

        return nearest.settle(evaluate, by_differences)

    held = nearest.hold_ties(samples)
    operands = nearest.prepare(samples, origins), labels, sizes, psi, held
    results = nearest.map_rows(terms, operands, total, chunk=chunk, mesh=mesh)
    return nearest.average(results, labels, num_classes)
