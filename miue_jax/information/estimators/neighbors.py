"""Nearest neighbors by brute force: distances exact enough to rank, and row chunks.

Up to 8 dimensions distances are sums of squared differences. Above, they come from one
matrix product: each sample is taken relative to the nearest of some origins that are
spread over the data (farthest-point traversal), so that the Gram identity loses nothing
to the distance between clusters. Whatever lies below the rounding of the identity
counts as coinciding, distance 0. Where that might decide about the neighbors of a
sample (`unresolved`), because there are more tight clusters than origins, rows are
computed again, with more origins or by differences (`in_two_stages`).

Each sample needs its distances to all N others, so the estimators take rows a chunk at
a time (`map_rows`), split over devices, and average one `Term` per sample.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from miue_jax._checks import shown
from miue_jax.information._core import matmul

DIRECT = 8
# Origins that cost little, and those that a hundred collapsed classes need.
_ORIGINS = 32
_MORE_ORIGINS = 256
# Of a squared distance that is to be ranked, over the rounding of the Gram identity.
_CERTAIN = 200
# Columns, or rows, of which a larger share is tied hold ties; rounding makes some too.
_TIED = 0.02


class Points(NamedTuple):
    """Samples prepared for distances.

    Attributes:
      queries: (N, E), left factor of the product of the Gram identity.
      targets: (N, E), its right factor.
      squared: (N,), squared norms relative to the origins.
      samples: (N, D), the samples themselves.
    """

    queries: jax.Array
    targets: jax.Array
    squared: jax.Array
    samples: jax.Array


class Term(NamedTuple):
    """Contribution of one sample to an estimate.

    Attributes:
      value: nats.
      radius: squared distance to the k-th neighbor; inf if there is none.
      tied: whether the sample coincides with another.
      unresolved: whether rounding may have decided about its neighbors.
    """

    value: jax.Array
    radius: jax.Array
    tied: jax.Array
    unresolved: jax.Array


def prepare(samples: jax.Array, count: int = _ORIGINS) -> Points:
    r"""Prepares centered samples (N, D) for `squared_distances`.

    With :math:`u_i = x_i - m_{a_i}` relative to the nearest origin,

    .. math:: |x_i - x_j|^2 = |u_i|^2 + |u_j|^2 - 2 u_i \cdot u_j
        + \bigl(|m_{a_i} - m_{a_j}|^2 + 2 u_i \cdot (m_{a_i} - m_{a_j})\bigr)
        + 2 u_j \cdot (m_{a_j} - m_{a_i}),

    whose last two terms are exactly 0 if the origins are the same, and are picked out
    of a row of `i` and a row of `j` by the other's one-hot origin. There are `count`
    origins at most.
    """
    squared = jnp.sum(jnp.square(samples), axis=1)
    if samples.shape[1] <= DIRECT:
        return Points(samples, samples, squared, samples)
    origins, nearest = _spread(samples, squared, count)
    relative = samples - origins[nearest]
    one_hot = jax.nn.one_hot(nearest, len(origins), dtype=samples.dtype)
    between = jax.vmap(lambda o: jnp.sum(jnp.square(o - origins), axis=1))(origins)
    along = matmul(relative, origins.T)
    along = 2 * (jnp.take_along_axis(along, nearest[:, None], axis=1) - along)
    return Points(
        jnp.concatenate([-2 * relative, between[nearest] + along, one_hot], axis=1),
        jnp.concatenate([relative, one_hot, along], axis=1),
        jnp.sum(jnp.square(relative), axis=1),
        samples,
    )


def squared_distances(
    points: Points,
    rows: jax.Array,
    start: ArrayLike = 0,
    span: int | None = None,
    *,
    by_differences: bool = False,
) -> jax.Array:
    """Squared distances from points to a window of consecutive points.

    Args:
      points: from `prepare`.
      rows: (C,) indices of the points to measure from.
      start: first point of the window.
      span: points in the window; None for all.
      by_differences: sum squared differences in any dimension, ten times slower.

    Returns:
      (C, span) float >= 0.
    """

    def window(array: jax.Array) -> jax.Array:
        if span is None or span == len(array):
            return array
        return lax.dynamic_slice_in_dim(array, start, span)

    if by_differences and points.samples.shape[1] > DIRECT:
        targets = window(points.samples)

        def add(
            total: jax.Array, column: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, None]:
            query, target = column
            return total + jnp.square(query[:, None] - target), None

        # Derived from the samples, like the carry of `kth_smallest`.
        start = 0 * points.samples[rows][:, :1] + 0 * targets[:, 0]
        return lax.scan(add, start, (points.samples[rows].T, targets.T))[0]
    targets, squared = window(points.targets), window(points.squared)
    queries = points.queries[rows]
    if queries.shape[1] <= DIRECT:
        pairs = zip(queries.T, targets.T, strict=True)
        return functools.reduce(jnp.add, [jnp.square(q[:, None] - t) for q, t in pairs])
    total = points.squared[rows][:, None] + squared
    distances = total + matmul(queries, targets.T)
    resolution = 16 * jnp.finfo(total.dtype).eps * total
    return jnp.where(distances > resolution, distances, 0)


def unresolved(points: Points, rows: jax.Array, radius: jax.Array) -> jax.Array:
    """Whether a squared distance from points drowns in the rounding of others.

    Args:
      points: from `prepare`.
      rows: (C,) indices of the points that were measured from.
      radius: (C,) squared distances that decide about their neighbors.

    Returns:
      (C,) bool. Never by differences, and not for points that lie on an origin.
    """
    if points.samples.shape[1] <= DIRECT:
        return jnp.zeros(len(rows), bool)
    rounding = 16 * jnp.finfo(radius.dtype).eps * points.squared[rows]
    return radius < _CERTAIN * rounding


def in_two_stages(
    compute: Callable[[int, bool], tuple[jax.Array, dict[str, jax.Array]]],
    *,
    traced: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes with few origins and, where those leave rows unresolved, again.

    Args:
      compute: takes the number of origins and whether rows that are unresolved are to
        be computed by differences; returns a value and diagnostics of `average`.
      traced: whether nothing can be looked at: then differences stand by at once.

    Returns:
      The value and the diagnostics, without ``unresolved_fraction``.
    """
    value, diagnostics = compute(_ORIGINS, traced)
    fraction = diagnostics.pop("unresolved_fraction")
    if not traced and float(fraction) > 0:
        value, diagnostics = compute(_MORE_ORIGINS, True)
        diagnostics.pop("unresolved_fraction")
    return value, diagnostics


def settle(evaluate: Callable[[bool], Term], by_differences: bool) -> Term:
    """Evaluates terms, by differences if that is allowed and one is unresolved.

    Args:
      evaluate: takes whether distances are to be computed by differences.
      by_differences: whether they may be.

    Returns:
      The terms.
    """
    term = evaluate(False)
    if not by_differences:
        return term
    return lax.cond(jnp.any(term.unresolved), lambda: evaluate(True), lambda: term)


def hold_ties(samples: jax.Array) -> jax.Array:
    """Whether samples (N, D) hold ties, as rounded or partly constant data do.

    Up to 8 dimensions a column with ties is enough, since distances are then tied as
    well; above, samples have to coincide. A column of one value does not count.
    """
    if samples.shape[1] > DIRECT:
        # Equal samples have equal sums; others hardly ever do.
        weights = jnp.cos(jnp.arange(samples.shape[1], dtype=samples.dtype))
        samples = jnp.sum(samples * weights, axis=1, keepdims=True)
    ordered = jnp.sort(samples, axis=0)
    shares = jnp.mean(ordered[1:] == ordered[:-1], axis=0)
    return jnp.any((shares > _TIED) & (ordered[0] < ordered[-1]))


def known_ties(samples: np.ndarray) -> bool:
    """The same of samples on the host."""
    if samples.shape[1] > DIRECT:
        weights = np.cos(np.arange(samples.shape[1], dtype=samples.dtype))
        samples = np.sum(samples * weights, axis=1, keepdims=True)
    ordered = np.sort(samples, axis=0)
    shares = np.mean(ordered[1:] == ordered[:-1], axis=0)
    return bool(np.any((shares > _TIED) & (ordered[0] < ordered[-1])))


def kth_smallest(values: jax.Array, k: int) -> jax.Array:
    """The k-th smallest of each row of (C, M), with multiplicity; inf if not finite.

    Takes k passes over the rows: on CPU ten times faster than `jax.lax.top_k`. Values
    must not be -inf.
    """

    def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        radius, count = carry
        beyond = values > radius[:, None]
        farther = jnp.min(jnp.where(beyond, values, jnp.inf), axis=1)
        radius = jnp.where(count < k, farther, radius)
        return radius, jnp.sum(values <= radius[:, None], axis=1, dtype=jnp.int32)

    # Derived from the values so that the carry varies over devices as they do.
    lowest = jnp.full_like(values[:, 0], -jnp.inf)
    return lax.fori_loop(0, k, step, (lowest, jnp.zeros_like(lowest, jnp.int32)))[0]


def count(
    distances: jax.Array, radius: jax.Array, *, strictly: bool = False
) -> jax.Array:
    """Counts the distances (C, M) up to a radius (C,), or strictly below it.

    The radius is one of the distances, which a compiler may round differently each time
    it computes them: a few units in the last place are not decisive.
    """
    slack = 4 * jnp.finfo(radius.dtype).eps
    if strictly:
        near = distances < (radius * (1 - slack))[:, None]
    else:
        near = distances <= (radius * (1 + slack))[:, None]
    return jnp.sum(near, axis=1, dtype=jnp.int32)


class Ties(NamedTuple):
    """How distances in one space are counted.

    Attributes:
      held: () bool, whether the samples hold ties (`hold_ties`).
      gram: whether distances come from the Gram identity, a Python bool; otherwise they
        are those of coordinates of magnitude up to 1.
    """

    held: jax.Array
    gram: bool

    def limits(self, radius: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Squared distances that a tie with a squared radius may be rounded to."""
        eps = jnp.finfo(radius.dtype).eps
        if self.gram:
            return radius * (1 - 4 * eps), radius * (1 + 4 * eps)
        # Coordinates up to 1 are rounded by eps / 2, their differences no less.
        distance = jnp.sqrt(radius)
        low = jnp.maximum(distance - 8 * eps, 0)
        return jnp.square(low), jnp.square(distance + 8 * eps)

    def reach(self, radius: jax.Array) -> jax.Array:
        """The squared radius, and where there are ties all that is tied with it."""
        return jnp.where(self.held, self.limits(radius)[1], radius)

    def within(self, distances: jax.Array, radius: jax.Array, k: int) -> jax.Array:
        """Counts the neighbors up to the k-th: more than k if several are as far."""

        def counted() -> jax.Array:
            return count(distances, self.limits(radius)[1])

        return lax.cond(self.held, counted, lambda: jnp.full_like(radius, k, jnp.int32))

    def near(self, distances: jax.Array, radius: jax.Array) -> jax.Array:
        r"""Counts what is strictly nearer than the k-th neighbor, and one more.

        That one is the neighbor itself in the space that decides about its distance,
        and the next sample in the other. Where many are as far as the neighbor, all of
        them count: :math:`\max(\#\{d \le \epsilon\}, \#\{d < \epsilon\} + 1)`, which
        without ties is the same number.
        """

        def counted() -> jax.Array:
            low, high = self.limits(radius)
            below = jnp.sum(distances < low[:, None], axis=1, dtype=jnp.int32)
            return jnp.maximum(count(distances, high), 1 + below)

        def plain() -> jax.Array:
            return 1 + count(distances, radius, strictly=True)

        return lax.cond(self.held, counted, plain)


def is_gram(points: Points, by_differences: bool) -> bool:
    """Whether `squared_distances` takes the Gram identity."""
    return not by_differences and points.samples.shape[1] > DIRECT


def jitter(key: jax.Array, samples: jax.Array) -> jax.Array:
    """Adds noise of 10 float epsilons of each column's standard deviation."""
    scale = 10 * jnp.finfo(samples.dtype).eps * jnp.std(samples, axis=0)
    return samples + scale * jax.random.normal(key, samples.shape, samples.dtype)


def chunk_rows(size: int, chunk_size: int, mesh: Mesh | None) -> int:
    """Rows a device takes at a time: no more than its share."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"mesh is {shown(mesh)}; it must be a `jax.sharding.Mesh`")
    return min(chunk_size, -(-size // (1 if mesh is None else mesh.size)))


def map_rows(
    function: Callable[[Any, jax.Array], Any],
    operands: Any,
    size: int,
    *,
    chunk: int,
    mesh: Mesh | None,
) -> Any:
    """Maps a function over chunks of row indices, split over devices.

    Args:
      function: takes the operands and (C,) indices, returns a pytree of (C, ...).
      operands: a pytree, copied to every device.
      size: number of rows; need not be divisible by chunks or devices.
      chunk: indices at a time per device, from `chunk_rows`.
      mesh: the devices, over all of its axes; None for one.

    Returns:
      The pytree of (size, ...).
    """
    devices = 1 if mesh is None else mesh.size
    chunks = -(-size // (chunk * devices)) * devices
    # Rows beyond the last repeat it; their results are cut off.
    rows = jnp.minimum(jnp.arange(chunks * chunk), size - 1).reshape(chunks, chunk)

    def run(operands: Any, rows: jax.Array) -> Any:
        return lax.map(lambda chunk: function(operands, chunk), rows)

    if mesh is not None:
        split = P(mesh.axis_names)
        run = jax.shard_map(
            run, mesh=mesh, in_specs=(P(), split), out_specs=split, check_vma=False
        )
    results = run(operands, rows)
    return jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:])[:size], results)


def average(
    terms: Term, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Averages the terms of samples that have a k-th neighbor.

    A label out of range makes the value NaN. Also returns the fractions of samples that
    coincide with another, lie at distance 0 of their k-th neighbor, have none, or are
    unresolved.
    """
    undersized = jnp.isinf(terms.radius)
    value = jnp.mean(jnp.where(undersized, 0, terms.value))
    valid = jnp.all((labels >= 0) & (labels < num_classes))
    fractions = {
        "tie_fraction": terms.tied,
        "degenerate_fraction": terms.radius == 0,
        "undersized_fraction": undersized,
        "unresolved_fraction": terms.unresolved,
    }
    means = {
        name: jnp.mean(each.astype(value.dtype)) for name, each in fractions.items()
    }
    return jnp.where(valid, value, jnp.nan), means


def _spread(
    samples: jax.Array, squared: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Origins far from each other, including the center, and each sample's nearest."""
    count = min(count, len(samples))
    origins = jnp.zeros((count, samples.shape[1]), samples.dtype)

    def step(
        index: int, carry: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        origins, nearest, distance = carry
        origin = samples[jnp.argmax(distance)]
        new = jnp.sum(jnp.square(samples - origin), axis=1)
        nearest = jnp.where(new < distance, index, nearest)
        return origins.at[index].set(origin), nearest, jnp.minimum(distance, new)

    start = (origins, jnp.zeros(len(samples), jnp.int32), squared)
    origins, nearest, _ = lax.fori_loop(1, count, step, start)
    return origins, nearest
