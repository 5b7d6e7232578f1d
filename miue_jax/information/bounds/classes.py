"""Samples by class: what is checked of them, their counts, centering and slices."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from miue_jax.information.checks import check_labels, check_samples, is_traced


def check_classes(
    features: ArrayLike, labels: ArrayLike, num_classes: int, *, minimum: int = 2
) -> tuple[jax.Array, jax.Array, int]:
    """Checks labeled features.

    Args:
      features: (N, D) numbers.
      labels: (N,) integers in [0, num_classes). Traced labels cannot be refused: where
        one is out of range, every feature becomes NaN.
      num_classes: number of classes.
      minimum: fewest members allowed of a class that is present.

    Returns:
      The features as (N, D) float, the labels as (N,) int32, and the size of the
      largest class; N where labels are traced.

    Raises:
      ValueError: for anything else.
    """
    if operator.index(num_classes) < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    features = check_samples("features", features, minimum=1)
    if is_traced(labels):
        labels = check_labels(labels, len(features), num_classes=num_classes)
        valid = jnp.all((labels >= 0) & (labels < num_classes))
        return jnp.where(valid, features, jnp.nan), labels, len(features)
    # Under jit even a constant is traced once it has been an operand.
    with jax.ensure_compile_time_eval():
        labels = check_labels(labels, len(features), num_classes=num_classes)
    counts = np.bincount(np.asarray(labels), minlength=num_classes)
    few = (counts > 0) & (counts < minimum)
    if few.any():
        label = int(np.argmax(few))
        raise ValueError(
            f"class {label} has {counts[label]} member; at least {minimum} are needed"
        )
    return features, labels, int(counts.max())


def check_positive(name: str, value: ArrayLike) -> None:
    """Refuses what is not a positive finite scalar.

    Args:
      name: of the argument, for the message.
      value: the scalar.

    Raises:
      ValueError: saying what was given.
    """
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")
    if not is_traced(value) and not 0 < float(np.asarray(value)) < float("inf"):
        raise ValueError(f"{name} is {value}; it must be positive and finite")


def unit(features: jax.Array) -> jax.Array:
    """Scales features to unit norm.

    Args:
      features: (N, D) float.

    Returns:
      (N, D). Where features are traced a zero stays zero.

    Raises:
      ValueError: for a feature that is zero.
    """
    # The largest entry is taken out first so that squares neither vanish nor overflow.
    largest = lax.stop_gradient(jnp.max(jnp.abs(features), axis=1, keepdims=True))
    nonzero = largest > 0
    if not is_traced(nonzero) and not bool(jnp.all(nonzero)):
        row = int(np.argmin(np.asarray(nonzero)[:, 0]))
        raise ValueError(f"feature {row} is zero; it has no direction")
    scaled = features / jnp.where(nonzero, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(nonzero, squared, 1))


def class_counts(labels: jax.Array, num_classes: int, dtype: Any) -> jax.Array:
    """Members of each class, (num_classes,) of the given type."""
    return jax.ops.segment_sum(jnp.ones(labels.shape, dtype), labels, num_classes)


def center(features: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Subtracts from each feature the mean of its class, (N, D).

    Twice: what the rounding of the first mean left is taken out by the second, so that
    the spread of nearly collapsed classes keeps its digits.
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
    """Applies a function to the members of each class, one class after another.

    Args:
      function: of the members (size, D), zero beyond their number, a mask of those
        that are members (size,), and the class's entry of each further argument.
      features: (N, D).
      labels: (N,).
      num_classes: number of classes.
      size: at least the size of the largest class.
      *arguments: (num_classes, ...) arrays.

    Returns:
      What the function returns, stacked over classes.
    """
    # Behind the barrier, since XLA would sort constant labels while compiling, slowly.
    order = jnp.argsort(lax.optimization_barrier(labels))
    # Zeros behind the last class: a slice that runs over the end would be moved.
    rows = jnp.pad(features[order], ((0, size), (0, 0)))
    counts = class_counts(labels, num_classes, jnp.int32)
    starts = jnp.cumsum(counts) - counts

    def of_class(arguments: tuple[jax.Array, ...]) -> Any:
        start, count, *rest = arguments
        members = lax.dynamic_slice_in_dim(rows, start, size)
        mask = jnp.arange(size) < count
        return function(jnp.where(mask[:, None], members, 0), mask, *rest)

    # Checkpointed: the slices are not kept for the gradient.
    return lax.map(jax.checkpoint(of_class), (starts, counts, *arguments))


def matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    """Matrix product in full precision on every backend."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
