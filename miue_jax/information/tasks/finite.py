"""Finite distributions: exact entropies and information from the table of p."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from jax.typing import ArrayLike

from miue_jax.information.tasks.task import Task


def entropy(pmf: ArrayLike, axes: Sequence[int] | None = None) -> jax.Array:
    """Entropy of some of the variables of a joint distribution.

    Args:
      pmf: (n_0, n_1, ...) probabilities, one axis a variable.
      axes: the variables; None for all.

    Returns:
      () nats.

    Raises:
      ValueError: if there is no such axis or one is named twice.
    """
    table = jnp.asarray(pmf)
    kept = set(range(table.ndim)) if axes is None else set(axes)
    if axes is not None and (
        len(kept) < len(axes) or not kept <= set(range(table.ndim))
    ):
        raise ValueError(
            f"axes {tuple(axes)} must differ and be below {table.ndim}, the number of "
            "variables"
        )
    others = tuple(axis for axis in range(table.ndim) if axis not in kept)
    return jnp.sum(entr(jnp.sum(table, axis=others)))


def mutual_information(
    pmf: ArrayLike,
    first: Sequence[int],
    second: Sequence[int],
    *,
    given: Sequence[int] = (),
) -> jax.Array:
    """Mutual information of two groups of variables, perhaps conditional on a third.

    I(A; B | C) = H(A, C) + H(B, C) - H(A, B, C) - H(C).

    Args:
      pmf: (n_0, n_1, ...) probabilities, one axis a variable.
      first: axes of A.
      second: axes of B.
      given: axes of C.

    Returns:
      () nats.

    Raises:
      ValueError: if there is no such axis or one is named twice.

    References:
      Cover and Thomas, Elements of Information Theory, sections 2.4 and 2.5.
    """
    a, b, c = tuple(first), tuple(second), tuple(given)
    return (
        entropy(pmf, a + c)
        + entropy(pmf, b + c)
        - entropy(pmf, a + b + c)
        - entropy(pmf, c)
    )


def random_pmf(
    key: jax.Array, shape: Sequence[int], *, spread: ArrayLike = 1.0
) -> jax.Array:
    """A random joint distribution: the softmax of normal logits.

    Args:
      key: for the draw.
      shape: number of values of every variable.
      spread: standard deviation of the logits; at 10 a few cells hold nearly all.

    Returns:
      Probabilities of that shape.
    """
    logits = spread * jax.random.normal(key, (int(np.prod(shape)),))
    return jax.nn.softmax(logits).reshape(tuple(shape))


def finite(name: str, pmf: ArrayLike) -> Task:
    """Two variables of finitely many values, drawn from a table.

    Args:
      name: of the task.
      pmf: (n_x, n_y) probabilities; values.

    Returns:
      The task; x and y are (N, 1) numbers 0, 1, ....

    Raises:
      ValueError: if the table has another shape or is no distribution.
    """
    table = np.asarray(pmf, np.float64)
    if table.ndim != 2:
        raise ValueError(f"pmf has shape {table.shape}; it must be (n_x, n_y)")
    if not (table.min() >= 0 and abs(table.sum() - 1) < 1e-6):
        raise ValueError(
            f"pmf sums to {table.sum()} with smallest entry {table.min()}; it must be "
            "a distribution"
        )
    table = table / table.sum()
    product = table.sum(1, keepdims=True) * table.sum(0)
    ratio = np.log(np.where(table > 0, table, 1) / np.where(product > 0, product, 1))
    ratio = np.where(table > 0, ratio, -np.inf)

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        logits = jnp.log(jnp.asarray(table.ravel()))
        cells = jax.random.categorical(key, logits, shape=(size,))
        codes = jnp.stack(jnp.unravel_index(cells, table.shape), axis=1).astype(float)
        return codes[:, :1], codes[:, 1:]

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        rows, columns = x[:, 0].astype(jnp.int32), y[:, 0].astype(jnp.int32)
        return jnp.asarray(ratio)[rows, columns]

    return Task(
        name=name,
        sample=sample,
        information=float(np.sum(table * np.where(table > 0, ratio, 0))),
        standard_error=0.0,
        dim_x=1,
        dim_y=1,
        pointwise=pointwise,
    )
