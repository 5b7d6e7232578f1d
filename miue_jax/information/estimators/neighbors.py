"""Euclidean distances to neighbors by brute force, exact enough to rank them.

Up to 8 dimensions distances are sums of squared differences. Above, they come from one
matrix product: each sample is taken relative to the nearest of up to 32 origins that
are spread over the data (farthest-point traversal), so that the Gram identity loses
nothing to the distance between clusters and a cluster that has collapsed to a point
keeps its neighbors. What lies below the rounding of the identity counts as
coinciding: distance 0.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

_DIRECT = 8
_ORIGINS = 32


class Points(NamedTuple):
    """Samples, prepared for distances.

    Attributes:
      queries: (N, E), the left factor of the product of the Gram identity.
      targets: (N, E), its right factor.
      squared: (N,), squared norms relative to the origins.
    """

    queries: jax.Array
    targets: jax.Array
    squared: jax.Array


def prepare(samples: jax.Array) -> Points:
    r"""Prepares samples for `squared_distances`.

    With :math:`u_i = x_i - m_{a_i}` relative to the nearest origin,

    .. math:: |x_i - x_j|^2 = |u_i|^2 + |u_j|^2 - 2 u_i \cdot u_j
        + \bigl(|m_{a_i} - m_{a_j}|^2 + 2 u_i \cdot (m_{a_i} - m_{a_j})\bigr)
        + 2 u_j \cdot (m_{a_j} - m_{a_i}),

    whose last two terms are exactly 0 where the origins are the same, and are picked
    out of a row of `i` and a row of `j` by the other's one-hot origin.

    Args:
      samples: (N, D) float, centered.

    Returns:
      The prepared points.
    """
    squared = jnp.sum(jnp.square(samples), axis=1)
    if samples.shape[1] <= _DIRECT:
        return Points(samples, samples, squared)
    origins, nearest = _spread(samples, squared)
    relative = samples - origins[nearest]
    own = jax.nn.one_hot(nearest, len(origins), dtype=samples.dtype)
    between = jax.vmap(lambda o: jnp.sum(jnp.square(o - origins), axis=1))(origins)
    along = jnp.matmul(relative, origins.T, precision=lax.Precision.HIGHEST)
    along = 2 * (jnp.take_along_axis(along, nearest[:, None], axis=1) - along)
    return Points(
        jnp.concatenate([-2 * relative, between[nearest] + along, own], axis=1),
        jnp.concatenate([relative, own, along], axis=1),
        jnp.sum(jnp.square(relative), axis=1),
    )


def squared_distances(
    points: Points, rows: jax.Array, start: ArrayLike = 0, span: int | None = None
) -> jax.Array:
    """Squared distances from some points to a window of consecutive points.

    Args:
      points: of `prepare`.
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
    product = jnp.matmul(queries, targets.T, precision=lax.Precision.HIGHEST)
    distances = total + product
    resolution = 16 * jnp.finfo(total.dtype).eps * total
    return jnp.where(distances > resolution, distances, 0)


def kth_smallest(values: jax.Array, k: int) -> jax.Array:
    """The k-th smallest of each row, equal values counted as often as they occur.

    k passes over the rows: on CPU ten times faster than `jax.lax.top_k`.

    Args:
      values: (C, M) float, none of them -inf.
      k: which.

    Returns:
      (C,) float; inf where fewer than k are finite.
    """

    def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        radius, count = carry
        beyond = values > radius[:, None]
        farther = jnp.min(jnp.where(beyond, values, jnp.inf), axis=1)
        radius = jnp.where(count < k, farther, radius)
        return radius, jnp.sum(values <= radius[:, None], axis=1, dtype=jnp.int32)

    # From the values, so that the carry varies over devices and batches as they do.
    lowest = jnp.full_like(values[:, 0], -jnp.inf)
    return lax.fori_loop(0, k, step, (lowest, jnp.zeros_like(lowest, jnp.int32)))[0]


def count(
    distances: jax.Array, radius: jax.Array, *, strictly: bool = False
) -> jax.Array:
    """Counts the distances up to a radius, or strictly below it.

    The radius is one of the distances, which a compiler may round differently each time
    it computes them: a few units in the last place do not decide.

    Args:
      distances: (C, M) float.
      radius: (C,) float.
      strictly: leave out distances equal to the radius.

    Returns:
      (C,) int32.
    """
    slack = 4 * jnp.finfo(radius.dtype).eps
    if strictly:
        near = distances < (radius * (1 - slack))[:, None]
    else:
        near = distances <= (radius * (1 + slack))[:, None]
    return jnp.sum(near, axis=1, dtype=jnp.int32)


def _spread(samples: jax.Array, squared: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Origins far from each other, the center among them, and each sample's nearest."""
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
