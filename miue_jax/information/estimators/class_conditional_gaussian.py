"""Gaussian information within classes plus the entropy of the labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from miue_jax.information.checks import check_labels, check_pair, is_traced
from miue_jax.information.estimate import Estimate
from miue_jax.information.estimators import covariance
from miue_jax.information.estimators.centering import center
from miue_jax.information.estimators.digamma import half_digamma


def class_conditional_gaussian(
    x: ArrayLike,
    y: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    components: int | None = 16,
    correction: bool = True,
) -> Estimate:
    r"""Entropy of the labels plus the Gaussian information within classes.

    .. math:: \hat I = \hat H(Y) + \sum_y \pi_y \hat I_y, \qquad
              \hat H(Y) = -\sum_y \pi_y \log \pi_y, \quad \pi_y = n_y / N,

    with :math:`\hat I_y` of `gaussian` on the principal components of the samples of
    class y. The components are those of the pooled within-class covariance, of x and of
    y each by itself, so that the differences between classes take up none.

    Assumes that the label is a function of x and also of y: then, and only then,
    I(X; Y) = H(label) + I(X; Y | label); otherwise the sum is an upper bound of it
    (docs/theory.md, T1). The second part is exact for Gaussian classes, up to what the
    components leave out, and by T9 a lower bound if one of x and y is Gaussian within
    classes. The whole is neither bound.

    Args:
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      labels: (N,) integers in [0, num_classes).
      num_classes: number of classes; absent ones have no weight.
      components: most principal components kept of x, and of y; None for all columns.
      correction: subtract the bias under Gaussian classes.

    Returns:
      The estimate, nats. The standard error is that of the second part, see `gaussian`,
      with the label entropy taken as known. Diagnostics: ``label_information`` and
      ``conditional_information``, the two parts; ``explained_x`` and ``explained_y``,
      the shares of within-class variance kept; ``smallest_pivot`` as of `gaussian`,
      over classes. Under `jax.jit` a singular class, or one too small, gives NaN or a
      meaningless value with a pivot of about 0, and labels out of range give NaN.

    Raises:
      ValueError: for bad samples or labels, a class with no more samples than
        dimensions kept, or a singular covariance within a class.

    References:
      docs/theory.md, T1 and T5; `gaussian` for the correction.
    """
    first, second = check_pair(x, y)
    size, dtype = len(first), first.dtype
    checked = check_labels(labels, size, num_classes=num_classes)
    if components is not None and components < 1:
        raise ValueError(f"components must be >= 1 or None, got {components}")
    kept = [
        z.shape[1] if components is None else min(components, z.shape[1])
        for z in (first, second)
    ]
    if not is_traced(checked):
        sizes = np.bincount(np.asarray(checked), minlength=num_classes)
        small = (sizes > 0) & (sizes <= sum(kept))
        if small.any():
            label = int(np.argmax(small))
            raise ValueError(
                f"class {label} has {sizes[label]} sample(s) of {kept[0]} + {kept[1]} "
                "dimensions: it needs more samples than dimensions; keep fewer "
                "components"
            )
    within = functools.partial(
        center, dtype=dtype, labels=checked, num_classes=num_classes
    )
    value, error, diagnostics = _within_classes(
        within(x),
        within(y),
        checked,
        num_classes=num_classes,
        kept=tuple(kept),
        project=components is not None,
        correction=correction,
    )
    pivot = diagnostics["smallest_pivot"]
    covariance.check_pivot(
        pivot, sum(kept), "x and y within a class; keep fewer components:"
    )
    return Estimate(value, error, "estimate", diagnostics)


@functools.partial(
    jax.jit, static_argnames=("num_classes", "kept", "project", "correction")
)
def _within_classes(
    x: jax.Array,
    y: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    kept: tuple[int, ...],
    project: bool,
    correction: bool,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    explained = [jnp.ones((), x.dtype)] * 2
    if project:
        x, explained[0] = _principal(x, kept[0])
        y, explained[1] = _principal(y, kept[1])
    samples = jnp.concatenate([x, y], axis=1)
    table = jnp.asarray(half_digamma(len(x)), x.dtype)

    def one(label: jax.Array) -> tuple[jax.Array, ...]:
        member = labels == label
        size = jnp.sum(member, dtype=jnp.int32)
        own = jnp.where(member[:, None], samples, 0)
        scatter = jnp.where(size > 0, covariance.matmul(own.T, own), jnp.eye(sum(kept)))
        value, squared, pivot = covariance.information(scatter.astype(x.dtype), kept[0])
        if correction:
            value += covariance.correction(table, size, *kept)
        share = size / len(x)
        present = share > 0
        return (
            jnp.where(present, share * value, 0),
            jnp.where(present, share * squared / len(x), 0),
            pivot,
            -jnp.where(present, share * jnp.log(jnp.where(present, share, 1)), 0),
        )

    values, variances, pivots, entropies = lax.map(one, jnp.arange(num_classes))
    conditional, entropy = jnp.sum(values), jnp.sum(entropies)
    valid = jnp.all((labels >= 0) & (labels < num_classes))
    diagnostics = {
        "label_information": entropy,
        "conditional_information": conditional,
        "explained_x": explained[0],
        "explained_y": explained[1],
        "smallest_pivot": jnp.min(pivots),
    }
    value = jnp.where(valid, entropy + conditional, jnp.nan)
    return value, jnp.sqrt(jnp.sum(variances)), diagnostics


def _principal(samples: jax.Array, components: int) -> tuple[jax.Array, jax.Array]:
    """Principal components of centered samples and the share of variance kept."""
    largest = jnp.max(jnp.abs(samples))
    samples = samples / jnp.where(largest > 0, largest, 1)
    variances, axes = jnp.linalg.eigh(covariance.matmul(samples.T, samples))
    kept = jnp.sum(variances[-components:]) / jnp.sum(variances)
    # A component of rounding errors would pass for a coordinate: it has to be singular.
    resolution = len(variances) * jnp.finfo(samples.dtype).eps * variances[-1]
    axes = jnp.where(variances > resolution, axes, 0)
    return covariance.matmul(samples, axes[:, -components:]), kept
