"""Features grouped by class: validation, counts, centering, maps and moments."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from miue_jax._arguments import check_scalar
from miue_jax._centering import center_classes, unrounded
from miue_jax._checks import check_reciprocal
from miue_jax.information._core import (
    check_counts,
    check_labels,
    is_traced,
    known_samples,
    matmul,
    round_samples,
)


class ClassMoments(NamedTuple):
    """Means and covariances of classes.

    Attributes:
      means: (K, D).
      covariances: (K, D, D).
      prior: (K,) probabilities.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> moments = bounds.ClassMoments(
      ...     means=np.array([[0.0], [9.0]]),
      ...     covariances=np.ones((2, 1, 1)),
      ...     prior=np.array([0.5, 0.5]),
      ... )
      >>> round(float(bounds.label_information_bounds(*moments).upper), 4)  # log 2
      0.6931
    """

    means: jax.Array
    covariances: jax.Array
    prior: jax.Array


def check_classes(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    minimum: int = 2,
    normalize: bool = False,
) -> tuple[jax.Array, jax.Array, int]:
    """Checks labeled features, each class present having at least `minimum` members.

    Traced labels cannot be refused: if one is out of range, every feature becomes NaN.
    Known features of a wider type than JAX computes in are centered within classes
    before they are rounded, and normalized before that.

    Returns:
      Features as (N, D) float, up to a shift of each class, of unit norm before it if
      `normalize` is set; labels as (N,) int32; and the size of the largest class (N if
      the labels are traced).
    """
    check_counts(num_classes=num_classes)
    values, dtype = known_samples("features", features, minimum=1)
    if is_traced(labels):
        labels = check_labels(labels, len(values), num_classes=num_classes)
        features = _prepared(values, np.zeros(len(values), int), dtype, normalize)
        valid = jnp.all((labels >= 0) & (labels < num_classes))
        return jnp.where(valid, features, jnp.nan), labels, len(features)
    # Under jit even a constant becomes a tracer once it has been an operand.
    with jax.ensure_compile_time_eval():
        labels = check_labels(labels, len(values), num_classes=num_classes)
    counts = np.bincount(np.asarray(labels), minlength=num_classes)
    few = (counts > 0) & (counts < minimum)
    if few.any():
        label = int(np.argmax(few))
        raise ValueError(
            f"class {label} has {counts[label]} member; at least {minimum} are needed"
        )
    features = _prepared(values, np.asarray(labels), dtype, normalize)
    return features, labels, int(counts.max())


def _prepared(
    values: np.ndarray | jax.Array,
    labels: np.ndarray,
    dtype: jnp.dtype,
    normalize: bool,
) -> jax.Array:
    if not isinstance(values, np.ndarray) or values.dtype == dtype:
        features = jnp.asarray(values, dtype)
        return unit(features) if normalize else features
    if normalize:
        largest = np.max(np.abs(values), axis=1, keepdims=True)
        _refuse_zeros(largest)
        values = values / largest
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
    return round_samples("features", center_classes(values, labels), dtype)


def check_positive(name: str, value: ArrayLike, dtype: Any = None) -> None:
    """Raises a ValueError unless the value is a positive finite scalar.

    Nor may it be so small that its reciprocal overflows in a given type.
    """
    check_scalar(name, value)
    if is_traced(value):
        return
    if not 0 < float(np.asarray(value)) < float("inf"):
        raise ValueError(f"{name} is {value}; it must be positive and finite")
    if dtype is not None:
        check_reciprocal(name, value, dtype)


def unit(features: jax.Array) -> jax.Array:
    """Scales features (N, D) to unit norm; zeros raise, or stay zero if traced."""
    # Dividing by the largest entry first keeps squares from vanishing or overflowing.
    largest = lax.stop_gradient(jnp.max(jnp.abs(features), axis=1, keepdims=True))
    nonzero = largest > 0
    if not is_traced(nonzero):
        _refuse_zeros(np.asarray(largest))
    scaled = features / jnp.where(nonzero, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(nonzero, squared, 1))


def _refuse_zeros(largest: np.ndarray) -> None:
    if not np.all(largest > 0):
        row = int(np.argmin(largest[:, 0] > 0))
        raise ValueError(f"feature {row} is zero; it has no direction")


def class_counts(labels: jax.Array, num_classes: int, dtype: Any) -> jax.Array:
    """Counts the members of each class: (num_classes,) of the given type."""
    return jax.ops.segment_sum(jnp.ones(labels.shape, dtype), labels, num_classes)


def center(features: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Subtracts from each feature the mean of its class.

    The second pass removes what rounding of the first mean left behind, so that the
    spread of nearly collapsed classes keeps its digits.
    """
    counts = jnp.maximum(class_counts(labels, num_classes, features.dtype), 1)
    for _ in range(2):
        sums = jax.ops.segment_sum(features, labels, num_classes)
        features = features - (sums / counts[:, None])[labels]
    return features


@functools.partial(jax.jit, static_argnames="num_classes")
def class_traces(features: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Traces of the unbiased covariances, (num_classes,); 0 below two members."""
    squares = jnp.sum(jnp.square(center(features, labels, num_classes)), axis=1)
    sums = jax.ops.segment_sum(squares, labels, num_classes)
    counts = class_counts(labels, num_classes, features.dtype)
    return sums / jnp.maximum(counts - 1, 1)


def map_classes(
    function: Callable[..., Any],
    features: jax.Array,
    labels: jax.Array,
    num_classes: int,
    size: int,
    *arguments: jax.Array,
) -> Any:
    """Maps a function over classes, one after another.

    Args:
      function: takes the members of a class (size, D), padded with zeros, a mask of the
        rows that are members (size,), and the class's entry of each further argument.
      features: (N, D).
      labels: (N,).
      num_classes: number of classes.
      size: at least the size of the largest class.
      *arguments: (num_classes, ...) arrays.

    Returns:
      The results, stacked over classes.
    """
    # Without the barrier XLA sorts constant labels at compile time, slowly.
    order = jnp.argsort(lax.optimization_barrier(labels))
    # Zeros behind the last class: a slice that runs past the end would be shifted.
    rows = jnp.pad(features[order], ((0, size), (0, 0)))
    counts = class_counts(labels, num_classes, jnp.int32)
    starts = jnp.cumsum(counts) - counts

    def of_class(arguments: tuple[jax.Array, ...]) -> Any:
        start, count, *rest = arguments
        members = lax.dynamic_slice_in_dim(rows, start, size)
        mask = jnp.arange(size) < count
        return function(jnp.where(mask[:, None], members, 0), mask, *rest)

    # Checkpointed so that the slices are not stored for the gradient.
    return lax.map(jax.checkpoint(of_class), (starts, counts, *arguments))


def class_moments(
    features: ArrayLike, labels: ArrayLike, num_classes: int
) -> ClassMoments:
    """Computes means, unbiased covariances and shares of the classes of a sample.

    Args:
      features: (N, D).
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      num_classes: K; absent classes have zero moments and no weight.

    Returns:
      The moments, for `label_information_bounds` and `rate_reduction`.

    Raises:
      ValueError: for bad shapes or values, or a class with one member.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.array([[0.0], [2.0], [5.0], [5.0]])
      >>> moments = bounds.class_moments(features, [0, 0, 1, 1], 2)
      >>> moments.means[:, 0].tolist(), moments.covariances[:, 0, 0].tolist()
      ([1.0, 5.0], [2.0, 0.0])
    """
    given = features
    features, labels, size = check_classes(features, labels, num_classes)
    counts = class_counts(labels, num_classes, features.dtype)
    sums = _class_sums(given, features, labels, num_classes)

    def covariance(
        members: jax.Array, mask: jax.Array, degrees: jax.Array
    ) -> jax.Array:
        return matmul(members.T, members) / degrees

    centered = center(features, labels, num_classes)
    degrees = jnp.maximum(counts - 1, 1)
    return ClassMoments(
        means=sums / jnp.maximum(counts, 1)[:, None],
        covariances=map_classes(
            covariance, centered, labels, num_classes, size, degrees
        ),
        prior=counts / len(labels),
    )


def _class_sums(
    given: ArrayLike, features: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
    """Sums of the features of each class, (K, D), as they were given: not shifted."""
    wide = unrounded(given)
    if wide is None:
        return jax.ops.segment_sum(features, labels, num_classes)
    wide = wide.reshape(len(wide), -1)
    if is_traced(labels):
        # Of traced labels only the common mean was taken off.
        mean = jnp.asarray(wide.mean(axis=0), features.dtype)
        return jax.ops.segment_sum(features + mean, labels, num_classes)
    sums = np.zeros((num_classes, wide.shape[1]))
    np.add.at(sums, np.asarray(labels), wide)
    return round_samples("features", sums, features.dtype)
