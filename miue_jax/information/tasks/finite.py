"""Discrete variables: entropies of finite tables, and the label channel."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax._checks import shown
from miue_jax.information._core import check_counts, check_key, is_traced
from miue_jax.information.tasks.task import Task

# Below 1/2, so that a feature identifies its label without doubt.
_SPREAD = 0.3


def entropy(pmf: ArrayLike, axes: Sequence[int] | None = None) -> jax.Array:
    """Entropy of some of the variables of a joint distribution.

    Args:
      pmf: (n_0, n_1, ...) probabilities, one axis per variable.
      axes: the variables; None for all.

    Returns:
      () nats.

    Raises:
      ValueError: for an axis that does not exist or is repeated.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information.tasks.finite import entropy
      >>> round(float(entropy(np.eye(4) / 4, [0])), 4)  # log 4
      1.3863
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
    """Mutual information of two groups of variables, optionally given a third.

    I(A; B | C) = H(A, C) + H(B, C) - H(A, B, C) - H(C).

    Args:
      pmf: (n_0, n_1, ...) probabilities, one axis per variable.
      first: axes of A.
      second: axes of B.
      given: axes of C.

    Returns:
      () nats.

    Raises:
      ValueError: for an axis that does not exist or is repeated.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information.tasks.finite import mutual_information
      >>> round(float(mutual_information(np.eye(4) / 4, [0], [1])), 4)  # a copy: log 4
      1.3863

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
    """Draws a joint distribution: the softmax of normal logits.

    Args:
      key: random key.
      shape: number of values of every variable.
      spread: standard deviation of the logits; at 10 a few cells hold nearly all of the
        probability.

    Returns:
      Probabilities of that shape.

    Raises:
      ValueError: for a shape that is none, or a spread that is negative or not finite.

    Example:
      >>> import jax
      >>> from miue_jax.information import tasks
      >>> pmf = tasks.random_pmf(jax.random.key(0), (3, 4))
      >>> pmf.shape, round(float(pmf.sum()), 4)
      ((3, 4), 1.0)
    """
    check_key(key)
    if not isinstance(shape, Sequence) or isinstance(shape, str) or not shape:
        raise ValueError(f"shape is {shown(shape)}; it must hold whole numbers >= 1")
    for size in shape:
        check_counts(shape=size)
    check_scalar("spread", spread)
    if not is_traced(spread) and not 0 <= float(np.asarray(spread)) < math.inf:
        raise ValueError(f"spread is {spread}; it must be finite and >= 0")
    logits = spread * jax.random.normal(key, (int(np.prod(shape)),))
    return jax.nn.softmax(logits).reshape(tuple(shape))


def finite(name: str, pmf: ArrayLike) -> Task:
    """Two variables with finitely many values, drawn from a table.

    Args:
      name: name of the task.
      pmf: (n_x, n_y) probabilities; not traced.

    Returns:
      The task; x and y are (N, 1) numbers 0, 1, ....

    Raises:
      ValueError: if the table has another shape or is not a distribution.

    Example:
      >>> from miue_jax.information import tasks
      >>> task = tasks.finite("copy", [[0.5, 0.0], [0.0, 0.5]])
      >>> round(task.information, 4)  # log 2
      0.6931
    """
    check_real("pmf", pmf)
    table = np.asarray(pmf, np.float64)
    if table.ndim != 2:
        raise ValueError(f"pmf has shape {table.shape}; it must be (n_x, n_y)")
    if not (table.size and table.min() >= 0 and abs(table.sum() - 1) < 1e-6):
        raise ValueError(
            f"pmf sums to {table.sum()} with smallest entry "
            f"{table.min(initial=math.inf)}; it must be a distribution"
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

    information = float(np.sum(table * np.where(table > 0, ratio, 0)))
    return Task(name, sample, information, 0.0, 1, 1, pointwise=pointwise)


def label_channel(num_classes: int, error: float, *, dim: int = 16) -> Task:
    r"""X shows a uniform label, y the label after a symmetric channel.

    Each feature is the unit vector of its label plus independent noise, uniform on
    [-0.3, 0.3] in every coordinate: it identifies the label and carries nothing else,
    so that with the channel's error probability e

    .. math:: I(x; y) = \log K + (1 - e) \log(1 - e) + e \log\frac{e}{K - 1}.

    Args:
      num_classes: K, at least 2.
      error: e, in [0, 1], the probability that the label is replaced by one of the
        others.
      dim: coordinates of either feature, at least K.

    Returns:
      The task `label-channel-<K>-<e>`; its labels are those that x shows.

    Raises:
      ValueError: for fewer than two classes, fewer coordinates than classes, or an
        error probability out of range.

    Example:
      >>> from miue_jax.information import tasks
      >>> round(tasks.label_channel(10, 0.0).information, 4)  # log 10
      2.3026

    References:
      Cover and Thomas, Elements of Information Theory, section 7.2.
    """
    check_counts(num_classes=num_classes, dim=dim)
    check_scalar("error", error)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, given {num_classes}")
    if dim < num_classes:
        raise ValueError(f"dim must be at least {num_classes} classes, given {dim}")
    if not 0 <= error <= 1:
        raise ValueError(f"error must be between 0 and 1, given {error}")

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, 4)
        labels = jax.random.randint(keys[0], (size,), 0, num_classes, jnp.int32)
        wrong = jax.random.bernoulli(keys[1], error, (size,))
        others = jax.random.randint(keys[2], (size,), 1, num_classes, jnp.int32)
        received = (labels + jnp.where(wrong, others, 0)) % num_classes
        shown = jax.nn.one_hot(jnp.stack([labels, received]), dim, dtype=float)
        spread = jax.random.uniform(
            keys[3], shown.shape, minval=-_SPREAD, maxval=_SPREAD
        )
        x, y = shown + spread
        return x, y, labels

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        right = jnp.argmax(x, axis=1) == jnp.argmax(y, axis=1)
        return jnp.where(
            right,
            jnp.log(num_classes * (1 - error)),
            jnp.log(num_classes * error / (num_classes - 1)),
        )

    information = math.log(num_classes)
    if error < 1:
        information += (1 - error) * math.log(1 - error)
    if error > 0:
        information += error * math.log(error / (num_classes - 1))
    name = f"label-channel-{num_classes}-{error}"
    return Task(name, sample, information, 0.0, dim, dim, num_classes, pointwise)
