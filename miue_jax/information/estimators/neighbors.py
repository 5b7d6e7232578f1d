"""Nearest neighbors by brute force: distances exact enough to rank, and row chunks.

Up to 8 dimensions distances are sums of squared differences. Above, they come from one
matrix product: each sample is taken relative to the nearest of up to 32 origins that
are spread over the data (farthest-point traversal), so that the Gram identity loses
nothing to the distance between clusters and a cluster that has collapsed to a point
keeps its neighbors. Whatever lies below the rounding of the identity counts as
coinciding: distance 0.

Each sample needs its distances to all N others, so the estimators take rows a chunk at
a time (`map_rows`), split over devices, and average one `Term` per sample.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from miue_jax.information._core import matmul

_DIRECT = 8
_ORIGINS = 32


class Points(NamedTuple):
    """Samples prepared for distances.

    Attributes:
      queries: (N, E), left factor of the product of the Gram identity.
      targets: (N, E), its right factor.
      squared: (N,), squared norms relative to the origins.
    """

    queries: jax.Array
    targets: jax.Array
    squared: jax.Array


class Term(NamedTuple):
    """Contribution of one sample to an estimate.

    Attributes:
      value: nats.
      radius: squared distance to the k-th neighbor; inf if there is none.
      tied: whether the sample coincides with another.
    """

    value: jax.Array
    radius: jax.Array
    tied: jax.Array


def prepare(samples: jax.Array) -> Points:
    r"""Prepares centered samples (N, D) for `squared_distances`.

    With :math:`u_i = x_i - m_{a_i}` relative to the nearest origin,

    .. math:: |x_i - x_j|^2 = |u_i|^2 + |u_j|^2 - 2 u_i \cdot u_j
        + \bigl(|m_{a_i} - m_{a_j}|^2 + 2 u_i \cdot (m_{a_i} - m_{a_j})\bigr)
        + 2 u_j \cdot (m_{a_j} - m_{a_i}),

    whose last two terms are exactly 0 if the origins are the same, and are picked out
    of a row of `i` and a row of `j` by the other's one-hot origin.
    """
    squared = jnp.sum(jnp.square(samples), axis=1)
    if samples.shape[1] <= _DIRECT:
        return Points(samples, samples, squared)
    origins, nearest = _spread(samples, squared)
    relative = samples - origins[nearest]
    one_hot = jax.nn.one_hot(nearest, len(origins), dtype=samples.dtype)
    between = jax.vmap(lambda o: jnp.sum(jnp.square(o - origins), axis=1))(origins)
    along = matmul(relative, origins.T)
    along = 2 * (jnp.take_along_axis(along, nearest[:, None], axis=1) - along)
    return Points(
        jnp.concatenate([-2 * relative, between[nearest] + along, one_hot], axis=1),
        jnp.concatenate([relative, one_hot, along], axis=1),
        jnp.sum(jnp.square(relative), axis=1),
    )


def squared_distances(
    points: Points, rows: jax.Array, start: ArrayLike = 0, span: int | None = None
) -> jax.Array:
    """Squared distances from points to a window of consecutive points.

    Args:
      points: from `prepare`.
      rows: (C,) indices of the points to measure from.
      start: first point of the window.
      span: points in the window; None for all.

    Returns:
      (C, span) float >= 0.
    """
    targets, squared = points.targets, points.squared
    if span is not None and span < len(targets):
        targets = lax.dynamic_slice_in_dim(targets, start, span)
        squared = lax.dynamic_slice_in_dim(squared, start, span)
    queries = points.queries[rows]
    if queries.shape[1] <= _DIRECT:
        pairs = zip(queries.T, targets.T, strict=True)
        return functools.reduce(jnp.add, [jnp.square(q[:, None] - t) for q, t in pairs])
    total = points.squared[rows][:, None] + squared
    distances = total + matmul(queries, targets.T)
    resolution = 16 * jnp.finfo(total.dtype).eps * total
    return jnp.where(distances > resolution, distances, 0)


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


def chunk_rows(size: int, chunk_size: int, mesh: Mesh | None) -> int:
    """Rows a device takes at a time: no more than its share."""
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
    coincide with another, lie at distance 0 of their k-th neighbor, or have none.
    """
    undersized = jnp.isinf(terms.radius)
    value = jnp.mean(jnp.where(undersized, 0, terms.value))
    valid = jnp.all((labels >= 0) & (labels < num_classes))
    fractions = {
        "tie_fraction": terms.tied,
        "degenerate_fraction": terms.radius == 0,
        "undersized_fraction": undersized,
    }
    means = {
        name: jnp.mean(each.astype(value.dtype)) for name, each in fractions.items()
    }
    return jnp.where(valid, value, jnp.nan), means


def _spread(samples: jax.Array, squared: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Origins far from each other, including the center, and each sample's nearest."""
    count = min(_ORIGINS, len(samples))
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
