"""A batch of features and labels: what it may be, and on which devices it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._arguments import check_real, check_scalar
from miue_jax._centering import center_classes, unrounded
from miue_jax.losses._pairs import AxisName, Samples, over_parts


def prepare(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    shift: bool = False,
    normalize: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Checks a batch, and computes on in float32 or wider.

    Args:
      features: (B, D).
      labels: (B,).
      num_classes: what labels are below, if anything.
      shift: whether the loss does not depend on the origin of a class.
      normalize: whether every feature is scaled to unit norm.

    Returns:
      Features and labels; a feature whose label is no class is NaN.

    Raises:
      ValueError: for wrong shapes or dtypes, or known labels out of range.
    """
    _check_batch(features, labels)
    known = not isinstance(labels, jax.core.Tracer)
    if known:
        _checks.check_label_range(labels, num_classes)
    values = unrounded(features) if shift else None
    if values is not None:
        if normalize:
            largest = np.max(np.abs(values), axis=1, keepdims=True)
            values = values / np.where(largest > 0, largest, 1)
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            values, normalize = values / np.where(norms > 0, norms, 1), False
        features = center_classes(values, labels if known else np.zeros(len(values)))
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if _axes(features) or _axes(labels):
        rows = [*_axes(features)[:1], *_axes(labels)]
        axis = next((axis for axis in rows if axis is not None), None)
        features = jax.sharding.reshard(features, P(axis, None))
        labels = jax.sharding.reshard(labels, P(axis))
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    if not known:
        valid = labels >= 0
        if num_classes is not None:
            valid &= labels < num_classes
        features = jnp.where(valid[:, None], features, jnp.nan)
    return unit(features) if normalize else features, labels


def unit(features: jax.Array) -> jax.Array:
    """Features of norm 1; those of norm 0 stay."""
    # The largest entry is taken out first so that squares neither vanish nor overflow.
    largest = lax.stop_gradient(jnp.max(jnp.abs(features), axis=1, keepdims=True))
    nonzero = largest > 0
    scaled = features / jnp.where(nonzero, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(nonzero, squared, 1))


def on_devices(
    loss: Callable[..., jax.Array],
    rows: tuple[jax.Array, ...],
    settings: tuple[Any, ...],
    axis_name: AxisName | None,
) -> jax.Array:
    """Calls a loss on every device that has rows of the batch.

    Args:
      loss: of rows, settings and `axis_name`; equal on all devices.
      rows: arrays of which each device has some rows.
      settings: scalars.
      axis_name: mesh axis (or axes) over which the batch is sharded. Without it, rows
        may be split over the axes of a mesh explicitly.

    Returns:
      The loss of the global batch.
    """
    split = next((row for row in rows if _axes(row)), None)
    if axis_name is not None or split is None:
        return loss(*rows, *settings, axis_name)
    axis = _axes(split)[0]
    axes = axis if isinstance(axis, tuple) else (axis,)
    rows = tuple(jax.sharding.reshard(row, P(axes)) for row in rows)
    per_device = jax.shard_map(
        lambda *arguments: loss(*arguments, axes),
        mesh=jax.typeof(split).sharding.mesh,
        in_specs=(P(axes),) * len(rows) + (P(),) * len(settings),
        out_specs=P(),
        axis_names=set(axes),
    )
    return per_device(*rows, *map(jnp.asarray, settings))


class Classes(NamedTuple):
    """For each sample of this device, what the global batch has of its class.

    Attributes:
      first: (n,) position of the first member.
      counts: (n,) number of members.
      ranks: (n,) place of the class among those of the batch.
    """

    first: jax.Array
    counts: jax.Array
    ranks: jax.Array


def classes(labels: jax.Array, axis_name: AxisName | None) -> Classes:
    if axis_name is None:
        everyone = labels
    else:
        everyone = lax.all_gather(labels, axis_name, tiled=True)
    order = jnp.argsort(everyone, stable=True)
    everyone = everyone[order]
    start = jnp.searchsorted(everyone, labels)
    stop = jnp.searchsorted(everyone, labels, side="right")
    ranks = jnp.cumsum(everyone != jnp.roll(everyone, 1).at[0].set(everyone[0]))
    return Classes(order[start], stop - start, ranks[start])


def first_members(
    features: jax.Array,
    labels: jax.Array,
    first: jax.Array,
    axis_name: AxisName | None,
) -> jax.Array:
    """The feature of the first member of the class of each sample, held constant.

    Features relative to it have the same distances within classes, and products lose
    nothing to the distance between classes. A member is subtracted alike from equal
    features; a mean might be rounded apart.
    """
    features = lax.stop_gradient(features)
    if axis_name is None:
        return features[first]
    size = len(labels)
    positions = jnp.arange(size) + size * lax.axis_index(axis_name)

    def of_part(part: Samples) -> jax.Array:
        place = first - part.positions[0]
        inside = (place >= 0) & (place < len(part.positions))
        found = part.features[jnp.where(inside, place, 0)]
        return jnp.where(inside[:, None], found, 0)

    return over_parts(of_part, Samples(features, labels, positions), axis_name)


def mean(values: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Mean over the samples of all devices."""
    local = jnp.mean(values)
    return local if axis_name is None else lax.pmean(local, axis_name)


def total(value: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Sum over devices."""
    return value if axis_name is None else lax.psum(value, axis_name)


def global_size(labels: jax.Array, axis_name: AxisName | None) -> int:
    """Number of samples of all devices."""
    return len(labels) * (1 if axis_name is None else lax.axis_size(axis_name))


def check_means(class_means: ArrayLike, features: ArrayLike) -> jax.Array:
    means = jnp.asarray(class_means)
    if means.ndim != 2 or means.shape[1:] != jnp.shape(features)[1:]:
        raise ValueError(
            f"class_means must be (K, D) for features of shape {jnp.shape(features)}, "
            f"got shape {means.shape}"
        )
    if not jnp.issubdtype(means.dtype, jnp.floating):
        raise ValueError(f"class_means must be floating point, got {means.dtype}")
    return means


def check_weight(value: ArrayLike, name: str = "distance_weight") -> None:
    check_scalar(name, value)
    if isinstance(value, jax.core.Tracer):
        return
    if not 0 <= float(np.asarray(value)) < np.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value}")


def check_integer(name: str, value: ArrayLike) -> None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(f"{name} must be an integer, got {value}")


def check_positive(name: str, value: ArrayLike, dtype: Any = None) -> None:
    """Refuses what is not a positive finite scalar, or too small for a type."""
    check_scalar(name, value)
    if isinstance(value, jax.core.Tracer):
        return
    number = float(np.asarray(value))
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value}")
    if dtype is not None:
        _checks.check_reciprocal(name, value, dtype)


def _axes(array: jax.Array) -> tuple[Any, ...]:
    """Axes of a mesh over which an array is split explicitly; () for none."""
    split = tuple(jax.typeof(array).sharding.spec)
    return split if any(axis is not None for axis in split) else ()


def _check_batch(features: ArrayLike, labels: ArrayLike) -> None:
    check_real("features", features)
    check_real("labels", labels)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"features must be (B, D) and not empty, got shape {features.shape}"
        )
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must have shape {features.shape[:1]} to match features of shape "
            f"{features.shape}, got {labels.shape}"
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
