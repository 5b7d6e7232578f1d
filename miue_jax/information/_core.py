"""Shared by the whole package: `Estimate`, validation of samples, and numerics.

Values of traced arrays cannot be inspected; only their shapes are checked. Checks look
at the argument as it was passed, in NumPy: inside `jax.jit`, any `jax.numpy` operation
turns a known array into a tracer.

Features of a collapsed class differ in their last digits, where products of the raw
numbers are noise. Every estimator therefore subtracts the mean first (`center`), in
float64 on the host if values are known, and only then rounds.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax._arguments import check_real
from miue_jax._centering import unrounded
from miue_jax._checks import check_label_range, shown
from miue_jax._floats import power_of_two

# Offsets of so many times the spread cost three digits.
_FAR = 2**10

Kind = Literal["estimate", "lower", "upper"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate of a mutual information.

    Attributes:
      value: () float, nats; never clipped at 0.
      standard_error: () float, nats; NaN if the estimator provides none.
      kind: whether the population value of the estimator is a "lower" bound on the
        mutual information, an "upper" bound or neither ("estimate").
      diagnostics: further quantities by name, such as warning signs to check.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import Estimate, estimators
      >>> x = np.random.default_rng(0).standard_normal((500, 1))
      >>> estimate = estimators.ksg(x, np.zeros((500, 1)))  # y is constant
      >>> isinstance(estimate, Estimate), estimate.kind
      (True, 'estimate')
      >>> abs(round(float(estimate.value), 3))
      0.0
    """

    value: jax.Array
    standard_error: jax.Array
    kind: Kind = dataclasses.field(metadata={"static": True})
    diagnostics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)


def is_traced(*arrays: ArrayLike) -> bool:
    """Whether any of the arrays has no values yet."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def check_samples(name: str, array: ArrayLike, *, minimum: int = 2) -> jax.Array:
    """Checks samples, (N, D) or (N,), and returns them as (N, D) floats.

    float32 and wider types are kept. Raises a ValueError for another shape, fewer than
    `minimum` samples, or values that are not finite or too large for the type.
    """
    values, dtype = known_samples(name, array, minimum=minimum)
    return round_samples(name, values, dtype)


def known_samples(
    name: str, array: ArrayLike, *, minimum: int = 2
) -> tuple[np.ndarray | jax.Array, jnp.dtype]:
    """Checks samples as `check_samples` does, but does not round them.

    Returns:
      (N, D) in the precision they came in, in NumPy if they are known; and the type to
      compute in.
    """
    check_real(name, array)
    known = not isinstance(array, jax.core.Tracer)
    samples: np.ndarray | jax.Array = np.asarray(array) if known else jnp.asarray(array)
    shape = samples.shape
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or samples.shape[1] == 0:
        raise ValueError(f"{name} has shape {shape}; it must be (N, D) or (N,)")
    if len(samples) < minimum:
        raise ValueError(
            f"{name} holds {len(samples)} samples; at least {minimum} are needed"
        )
    # JAX has no type for longdouble.
    narrow = np.float64 if samples.dtype.itemsize > 8 else samples.dtype
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(narrow), jnp.float32)
    if known:
        wide = unrounded(samples)
        samples = samples.astype(dtype) if wide is None else wide
        wrong = np.argwhere(~np.isfinite(samples))
        if wrong.size:
            row, column = wrong[0]
            raise ValueError(
                f"{name} holds {samples[row, column]} at row {row}, column {column}"
            )
    return samples, dtype


def known_pair(
    x: ArrayLike, y: ArrayLike, *, minimum: int = 2
) -> tuple[np.ndarray | jax.Array, np.ndarray | jax.Array, jnp.dtype]:
    """Checks paired samples; returns both unrounded, and the type to compute in."""
    first, dtype_x = known_samples("x", x, minimum=minimum)
    second, dtype_y = known_samples("y", y, minimum=minimum)
    if len(first) != len(second):
        raise ValueError(f"x holds {len(first)} samples and y {len(second)}")
    return first, second, jnp.promote_types(dtype_x, dtype_y)


def check_pair(
    x: ArrayLike, y: ArrayLike, *, minimum: int = 2, shift: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Checks paired samples and returns both as (N, D) of one floating-point type.

    Columns of a wider type whose offset would cost the digits in which they vary are
    centered before they are rounded; without `shift` they are refused, where little
    would be left.
    """
    first, second, dtype = known_pair(x, y, minimum=minimum)
    return _narrowed("x", first, dtype, shift), _narrowed("y", second, dtype, shift)


def _narrowed(
    name: str, values: np.ndarray | jax.Array, dtype: jnp.dtype, shift: bool
) -> jax.Array:
    if not is_traced(values) and values.dtype.itemsize > np.dtype(dtype).itemsize:
        with np.errstate(over="ignore"):
            spread = np.ptp(values, axis=0)
        mean = np.mean(values / len(values), axis=0) * len(values)
        lost = (np.abs(mean) > _FAR * spread) & (spread > 0)
        if shift:
            values = values - np.where(lost, mean, 0)
        elif np.any(lost & (np.abs(mean) > _FAR**2 * spread)):
            column = int(np.argmax(lost))
            raise ValueError(
                f"column {column} of {name} varies by {spread[column]:g} around "
                f"{mean[column]:g}, which {np.dtype(dtype)} does not resolve; subtract "
                "its mean"
            )
    if not is_traced(values):
        with np.errstate(over="ignore"):
            spread = np.ptp(values, axis=0)
        small = (spread > 0) & (spread < float(jnp.finfo(dtype).tiny))
        if small.any():
            column = int(np.argmax(small))
            raise ValueError(
                f"column {column} of {name} varies by {spread[column]:g} only, below "
                f"the range of {np.dtype(dtype)}; scale it"
            )
    return round_samples(name, values, dtype)


def round_samples(
    name: str, values: np.ndarray | jax.Array, dtype: jnp.dtype
) -> jax.Array:
    if not is_traced(values):
        large = np.argwhere(np.abs(values) > float(jnp.finfo(dtype).max))
        if large.size:
            row, column = large[0]
            raise ValueError(
                f"{name} holds {values[row, column]:g} at row {row}, column {column}, "
                f"beyond the range of {np.dtype(dtype)}; scale it"
            )
    return jnp.asarray(values, dtype)


def check_labels(
    labels: ArrayLike, size: int, *, num_classes: int | None = None
) -> jax.Array:
    """Checks labels and returns them as (size,) int32, known under `jit` too if given.

    Raises a ValueError for another shape or type, or for labels that are negative or
    not below `num_classes` (None: any number of classes).
    """
    if not is_traced(labels):
        with jax.ensure_compile_time_eval():
            return _checked_labels(labels, size, num_classes)
    return _checked_labels(labels, size, num_classes)


def _checked_labels(labels: ArrayLike, size: int, num_classes: int | None) -> jax.Array:
    check_real("labels", labels)
    array = jnp.asarray(labels)
    if array.shape != (size,) or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"labels are {array.dtype} of shape {array.shape}; they must be "
            f"({size},) integers"
        )
    if not is_traced(labels):
        check_label_range(labels, num_classes)
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
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or number < 1:
            raise ValueError(
                f"{name} is {shown(number)}; it must be a whole number >= 1"
            )


def where_finite(value: jax.Array, *samples: ArrayLike) -> jax.Array:
    """The value, or NaN if traced samples, which nobody could refuse, are not finite.

    Comparisons with NaN are false, so that ranks and counts would hide it.
    """
    for each in samples:
        if is_traced(each):
            value = jnp.where(jnp.all(jnp.isfinite(each)), value, jnp.nan)
    return value


def check_key(key: Any, name: str = "key") -> None:
    """Raises a ValueError for what is not one random key."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None:
        typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        if typed and key.shape == ():
            return
        if not typed and key.shape == (2,) and dtype == jnp.uint32:  # of the old style
            return
    raise ValueError(
        f"{name} is {shown(key)}; it must be one key, as of `jax.random.key`"
    )


def matmul(left: ArrayLike, right: ArrayLike) -> jax.Array:
    """Matrix product in full precision on every backend."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def as_matrix(samples: ArrayLike) -> jax.Array:
    """Samples as an (N, D) array; (N,) becomes (N, 1)."""
    samples = jnp.asarray(samples)
    return samples[:, None] if samples.ndim == 1 else samples


def center(
    samples: ArrayLike,
    dtype: jnp.dtype,
    *,
    labels: ArrayLike | None = None,
    num_classes: int = 1,
    standardize: bool = False,
) -> jax.Array:
    """Subtracts the mean, of all samples or of each class, and optionally scales.

    Outside `jax.jit` everything happens in float64 (or wider, if the samples are),
    before the samples are rounded to `dtype`, whether or not x64 is enabled; inside, in
    `dtype`. Arguments as in `center_unrounded`.

    Returns:
      (N, D) of `dtype`.

    Raises:
      ValueError: if known samples leave the range of `dtype`.
    """
    values = center_unrounded(
        samples, dtype, labels=labels, num_classes=num_classes, standardize=standardize
    )
    return round_samples("a sample", values, dtype)


def round_together(
    spaces: list[np.ndarray | jax.Array], dtype: jnp.dtype
) -> list[jax.Array]:
    """Rounds centered samples whose common scale does not matter.

    Known ones whose range `dtype` lacks are divided by a power of two first.
    """
    if not is_traced(*spaces):
        largest = max(float(np.max(np.abs(space))) for space in spaces)
        if largest > 0 and not 1e-30 < largest < 1e30:
            scale = 2.0 ** np.clip(np.floor(np.log2(largest)), -1000, 1000)
            spaces = [space / scale for space in spaces]
    return [jnp.asarray(space, dtype) for space in spaces]


def center_unrounded(
    samples: ArrayLike,
    dtype: jnp.dtype,
    *,
    labels: ArrayLike | None = None,
    num_classes: int = 1,
    standardize: bool = False,
) -> np.ndarray | jax.Array:
    """Does what `center` does, but leaves known samples in their precision.

    Args:
      samples: (N, D) or (N,), as the caller passed them, already checked.
      dtype: type to compute in where something is traced.
      labels: (N,) integers from 0; None for one class.
      num_classes: number of classes.
      standardize: divide each column by its standard deviation after centering, within
        classes if there are labels. Constant columns stay 0.

    Returns:
      (N, D), float64 or wider in NumPy if all is known, of `dtype` otherwise.
    """
    traced = is_traced(samples) or (labels is not None and is_traced(labels))
    xp = jnp if traced else np
    wide = None if is_traced(samples) else unrounded(samples)
    if wide is not None and traced:  # the labels, but the samples are known
        wide = wide - np.mean(wide, axis=0)
    given = samples if wide is None else wide
    values: np.ndarray | jax.Array
    if traced:
        values = jnp.asarray(given, dtype)
    else:
        values = np.asarray(given, np.float64) if wide is None else wide
    values = values.reshape(len(values), -1)
    # A rounded mean would leave a constant column at a constant other than 0.
    # NaN, where it cannot be refused, is not constant.
    varies = ~(xp.max(values, axis=0) <= xp.min(values, axis=0))
    if labels is None:
        values = values - xp.mean(values, axis=0)
    else:
        labels = xp.asarray(labels)
        members = (labels[:, None] == xp.arange(num_classes)).astype(values.dtype)
        counts = xp.maximum(xp.sum(members, axis=0), 1)
        shift = xp.mean(values, axis=0)
        values = values - shift
        sums = matmul(members.T, values) if traced else members.T @ values
        values = values - (sums / counts[:, None])[labels]
    values = xp.where(varies, values, 0)
    if standardize:
        largest = xp.max(xp.abs(values), axis=0)
        values = values / xp.where(largest > 0, largest, 1)
        deviation = xp.sqrt(xp.mean(xp.square(values), axis=0))
        values = values / xp.where(deviation > 0, deviation, 1)
    return values


def deviation(samples: jax.Array) -> jax.Array:
    """Standard deviations of columns of any size whose numbers the type has, (D,)."""
    scale = power_of_two(jnp.max(jnp.abs(samples), axis=0))
    return jnp.std(samples / scale, axis=0) * scale


def half_digamma(limit: int) -> np.ndarray:
    r"""Tabulates :math:`\psi(m / 2)` for m from 0 (NaN, a pole) to `limit`, in float64.

    By :math:`\psi(z + 1) = \psi(z) + 1/z` from :math:`\psi(1/2)` and :math:`\psi(1)`.
    Estimators need digamma at counts only: an exact table costs one gather on the
    device, whatever the type of the estimate.
    """
    table = np.full(max(limit, 2) + 1, np.nan)
    for first, value in ((1, -np.euler_gamma - 2 * np.log(2)), (2, -np.euler_gamma)):
        steps = 2 / np.arange(first, len(table) - 2, 2)
        table[first::2] = value + np.concatenate([[0], np.cumsum(steps)])
    return table[: limit + 1]


def whole_digamma(limit: int) -> np.ndarray:
    r"""Tabulates :math:`\psi(n)` for n from 0 (NaN, a pole) to `limit`, in float64."""
    return half_digamma(2 * limit)[::2]
