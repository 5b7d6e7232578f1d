"""Distances of features within classes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._floats import power_of_two
from miue_jax.losses import _batch
from miue_jax.losses._pairs import (
    AxisName,
    Samples,
    as_given,
    matmul,
    over_pairs,
    products,
    samples,
)


def distance_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    per_dimension: bool = True,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Logarithm of the summed distance to the samples of the same class.

    .. math:: L = \frac1B \sum_i \log\Bigl(1 + \frac1D \sum_{j \in P_i}
                                           \lVert z_i - z_j \rVert_2\Bigr)

    with :math:`P_i` the samples of the class of `i`. The division by D is that of the
    published code; the paper's formula has none (`per_dimension` False). Coinciding
    features contribute gradient 0. Distances are found by the Gram identity relative to
    one member of the class: a pair nearer than about sqrt(64 eps) times its own
    distance from that member (0.003 in float32) is below its resolution and counts as
    coinciding. Squares are taken at the scale of the largest feature, so that features
    of any finite size have their loss and gradient.

    Args:
      features: (B, D), floating point, not normalized; computed in float32 or wider.
      labels: (B,) integers from 0; negative ones give NaN where they are traced.
      per_dimension: whether the sum of distances is divided by D.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss, a scalar, 0 where every class has collapsed to a point.

    Raises:
      ValueError: for wrong shapes or dtypes, or negative labels.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> float(mj.distance_loss(features, labels))
      0.0
      >>> round(float(mj.distance_loss(features, 0 * labels)), 4)  # log(1 + sqrt(2))
      0.8814

    References:
      MI-UE (arXiv 2603.03725), intra-class distance loss, as published in code.
    """
    _checks.check_flag("per_dimension", per_dimension)
    batch = _batch.prepare(features, labels, shift=True)
    return global_distance(*batch, per_dimension, axis_name)


def global_distance(
    features: jax.Array,
    labels: jax.Array,
    per_dimension: bool,
    axis_name: AxisName | None,
) -> jax.Array:
    """`distance_loss` of a batch that has been checked."""
    divisor = features.shape[1] if per_dimension else 1

    def loss(
        features: jax.Array, labels: jax.Array, axis_name: AxisName | None
    ) -> jax.Array:
        # Columns first: in one step the CPU takes an entry after the other.
        largest = jnp.max(jnp.max(jnp.abs(lax.stop_gradient(features)), axis=0))
        if axis_name is not None:
            largest = lax.pmax(largest, axis_name)
        scale = power_of_two(largest)
        first = _batch.classes(labels, axis_name).first
        scaled = features / scale
        relative = scaled - _batch.first_members(scaled, labels, first, axis_name)
        return _compiled(relative, labels, scale, divisor, axis_name)

    return _batch.on_devices(loss, (features, labels), (), axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _distance(
    relative: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    divisor: int,
    axis_name: AxisName | None,
) -> jax.Array:
    """The loss of features relative to a member of their class, in units of `scale`."""
    sums = _sums(_samples(relative, labels, axis_name), axis_name) / divisor
    return _batch.mean(_logarithm(sums, scale), axis_name)


# Outside of `jit` too, its loops are compiled once, not at each call.
_compiled = jax.jit(_distance, static_argnums=(3, 4))


@_distance.defjvp
def _distance_jvp(
    divisor: int,
    axis_name: AxisName | None,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[jax.Array, jax.Array]:
    # As that of the similarity. The scale is constant.
    relative, labels, scale = primals
    own = _samples(relative, labels, axis_name)
    sums = _sums(own, axis_name) / divisor
    by_sum = jax.grad(lambda sums: jnp.sum(_logarithm(sums, scale)))(sums)
    slopes = by_sum / (divisor * _batch.global_size(labels, axis_name))
    own = own._replace(values=(*own.values, slopes))
    pulls = over_pairs(_pull, own, own, axis_name, within_classes=True)
    tangent = jnp.sum(as_given(pulls, own) * tangents[0])
    loss = _batch.mean(_logarithm(sums, scale), axis_name)
    return loss, _batch.total(tangent, axis_name)


def _samples(
    relative: jax.Array, labels: jax.Array, axis_name: AxisName | None
) -> Samples:
    own = samples(relative, labels, axis_name)
    return own._replace(values=(jnp.sum(jnp.square(own.features), axis=1),))


def _sums(own: Samples, axis_name: AxisName | None) -> jax.Array:
    """(n,) sums of distances to the samples of the same class."""

    def sums(own: Samples, other: Samples) -> jax.Array:
        apart, squared = _squared(own, other)
        # sqrt sees 1 where it is not used: its gradient at 0 times 0 is NaN.
        return jnp.sum(jnp.sqrt(squared), axis=1, where=apart)

    return over_pairs(sums, own, own, axis_name, within_classes=True)


def _pull(own: Samples, other: Samples) -> jax.Array:
    """The gradient to the features of the samples, as far as it comes from others."""
    apart, squared = _squared(own, other)
    # A pair counts in the row of the one and in that of the other.
    slopes = own.values[1][:, None] + other.values[1]
    weights = jnp.where(apart, slopes / jnp.sqrt(squared), 0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return total * own.features - matmul(weights, other.features)


def _squared(own: Samples, other: Samples) -> tuple[jax.Array, jax.Array]:
    """Which pairs of a class are apart, and their squared distances, 1 for others."""
    total = own.values[0][:, None] + other.values[0]
    squared = total - 2 * products(own, other)
    # Rounding of the identity, measured: up to 14 eps for D = 2048.
    resolution = 32 * jnp.finfo(squared.dtype).eps * total
    same = (own.labels[:, None] == other.labels) & (other.positions >= 0)
    # Not `squared > resolution`: NaN has to stay NaN.
    apart = same & ~(squared <= resolution)
    return apart, jnp.where(apart, squared, 1)


def _logarithm(sums: jax.Array, scale: jax.Array) -> jax.Array:
    """log(1 + sums * scale)."""
    # Where the sum in its own unit might overflow, the one beside it is long lost.
    total = sums * scale
    small = ~(total > jnp.finfo(total.dtype).max ** 0.5)
    small_log = jnp.log1p(jnp.where(small, total, 0))
    large_log = jnp.log(jnp.where(small, 1, sums)) + jnp.log(scale)
    return jnp.where(small, small_log, large_log)
