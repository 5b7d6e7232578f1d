"""What is wrong with samples, said before anything is computed from them.

Values of traced arrays cannot be looked at; of them only shapes are checked. What is
looked at is the argument as it came, in NumPy: inside `jax.jit` any operation of
`jax.numpy` makes a tracer of an array that is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def is_traced(*arrays: ArrayLike) -> bool:
    """Whether any of the arrays has no values yet."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def check_samples(name: str, array: ArrayLike, *, minimum: int = 2) -> jax.Array:
    """Checks samples and returns them as an (N, D) floating-point array.

    Args:
      name: of the argument, for the message.
      array: (N, D) or (N,) numbers; float32 or wider is kept, the rest becomes float.
      minimum: fewest samples allowed.

    Returns:
      (N, D) float.

    Raises:
      ValueError: for another shape, too few samples, or values that are not finite.
    """
    samples = jnp.asarray(array)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise ValueError(f"{name} has shape {samples.shape}; it must be (N, D) or (N,)")
    if jnp.iscomplexobj(samples):
        raise ValueError(f"{name} is complex; it must be real")
    if len(samples) < minimum:
        raise ValueError(
            f"{name} holds {len(samples)} samples; at least {minimum} are needed"
        )
    samples = samples.astype(jnp.promote_types(samples.dtype, jnp.float32))
    if not is_traced(array):
        values = np.asarray(array, samples.dtype).reshape(samples.shape)
        wrong = np.argwhere(~np.isfinite(values))
        if wrong.size:
            row, column = wrong[0]
            raise ValueError(
                f"{name} holds {values[row, column]} at row {row}, column {column}"
            )
    return samples


def check_pair(
    x: ArrayLike, y: ArrayLike, *, minimum: int = 2
) -> tuple[jax.Array, jax.Array]:
    """Checks paired samples (`check_samples`) and that there are as many of each.

    Args:
      x: (N, dx) numbers.
      y: (N, dy) numbers.
      minimum: fewest samples allowed.

    Returns:
      (N, dx) and (N, dy), of one floating-point type.

    Raises:
      ValueError: if one is bad, or they differ in length.
    """
    first = check_samples("x", x, minimum=minimum)
    second = check_samples("y", y, minimum=minimum)
    if len(first) != len(second):
        raise ValueError(f"x holds {len(first)} samples and y {len(second)}")
    dtype = jnp.promote_types(first.dtype, second.dtype)
    return first.astype(dtype), second.astype(dtype)


def check_labels(
    labels: ArrayLike, size: int, *, num_classes: int | None = None
) -> jax.Array:
    """Checks labels and returns them as int32.

    Args:
      labels: (N,) integers from 0.
      size: N.
      num_classes: labels must be below it; None for any number of classes.

    Returns:
      (N,) int32.

    Raises:
      ValueError: for another shape or type, or labels out of range.
    """
    array = jnp.asarray(labels)
    if array.shape != (size,) or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"labels are {array.dtype} of shape {array.shape}; they must be "
            f"({size},) integers"
        )
    if not is_traced(labels):
        values = np.asarray(labels)
        low, high = int(values.min()), int(values.max())
        limit = "" if num_classes is None else f" and below {num_classes}"
        if low < 0 or (num_classes is not None and high >= num_classes):
            raise ValueError(
                f"labels run from {low} to {high}; they must be at least 0{limit}"
            )
    return array.astype(jnp.int32)


def check_columns_vary(name: str, samples: jax.Array) -> None:
    """Refuses constant columns where a quantity is not defined for them.

    Args:
      name: of the argument, for the message.
      samples: (N, D) float.

    Raises:
      ValueError: naming the first constant column.
    """
    if is_traced(samples):
        return
    constant = np.ptp(np.asarray(samples), axis=0) == 0
    if constant.any():
        raise ValueError(f"column {int(np.argmax(constant))} of {name} is constant")
