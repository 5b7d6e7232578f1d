"""Validation of samples, labels and options before anything is computed from them.

Values of traced arrays cannot be inspected; only their shapes are checked. Checks look
at the argument as it was passed, in NumPy: inside `jax.jit`, any `jax.numpy` operation
turns a known array into a tracer.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def is_traced(*arrays: ArrayLike) -> bool:
    """Whether any of the arrays has no values yet."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def check_samples(name: str, array: ArrayLike, *, minimum: int = 2) -> jax.Array:
    """Checks samples, (N, D) or (N,), and returns them as (N, D) floats.

    float32 and wider types are kept. Raises a ValueError for another shape, fewer than
    `minimum` samples, or values that are not finite.
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
    """Checks paired samples and returns both as (N, D) of one floating-point type."""
    first = check_samples("x", x, minimum=minimum)
    second = check_samples("y", y, minimum=minimum)
    if len(first) != len(second):
        raise ValueError(f"x holds {len(first)} samples and y {len(second)}")
    dtype = jnp.promote_types(first.dtype, second.dtype)
    return first.astype(dtype), second.astype(dtype)


def check_labels(
    labels: ArrayLike, size: int, *, num_classes: int | None = None
) -> jax.Array:
    """Checks labels and returns them as (size,) int32.

    Raises a ValueError for another shape or type, or for labels that are negative or
    not below `num_classes` (None: any number of classes).
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


def check_class_sizes(labels: jax.Array, num_classes: int, neighbors: int) -> None:
    """Raises a ValueError for a class present with no more members than neighbors."""
    if is_traced(labels):
        return
    sizes = np.bincount(np.asarray(labels), minlength=num_classes)
    small = (sizes > 0) & (sizes <= neighbors)
    if small.any():
        label = int(np.argmax(small))
        raise ValueError(
            f"class {label} has {sizes[label]} sample(s); a class needs none or more "
            f"than neighbors={neighbors}"
        )


def check_counts(**counts: int) -> None:
    """Raises a ValueError for the first option that is not an integer >= 1."""
    for name, number in counts.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {number!r}")
