"""Gaussian information within classes plus the entropy of the labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax.information._core import (
    Estimate,
    center_unrounded,
    check_counts,
    check_labels,
    half_digamma,
    is_traced,
    known_pair,
    matmul,
    round_together,
)
from miue_jax.information.estimators.gaussian import (
    bias_correction,
    check_pivot,
    scatter_information,
)


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
    y separately, so that the differences between classes use up none of them.

    Assumes that the label is a function of x and also of y: then, and only then,
    I(X; Y) = H(label) + I(X; Y | label); otherwise the sum is an upper bound on it
    (docs/theory.md, T1). The second part is exact for Gaussian classes, up to what the
    components omit, and by T9 a lower bound if one of x and y is Gaussian within
    classes. The sum is neither a lower nor an upper bound.

    Args:
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      labels: (N,) integers in [0, num_classes).
      num_classes: number of classes; absent ones have no weight.
      components: maximum number of principal components of x, and of y; None for all
        columns.
      correction: subtract the bias under Gaussian classes.

    Returns:
      The estimate, nats. The standard error is that of the second part, see `gaussian`,
      with the label entropy taken as known. Diagnostics: ``label_information`` and
      ``conditional_information``, the two parts; ``explained_x`` and ``explained_y``,
      the shares of within-class variance kept; ``smallest_pivot`` as in `gaussian`,
      over classes. Under `jax.jit` a class that is singular or too small gives NaN or a
      meaningless value with a pivot of about 0, and labels out of range give NaN.

    Raises:
      ValueError: for bad samples or labels, a class with no more samples than
        dimensions kept, or a singular covariance within a class.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> labels = np.arange(400) % 2
      >>> x, y = 10 * labels + np.random.default_rng(0).standard_normal((2, 400))
      >>> estimate = estimators.class_conditional_gaussian(x, y, labels, num_classes=2)
      >>> round(float(estimate.diagnostics["label_information"]), 4)  # log 2
      0.6931
      >>> abs(float(estimate.diagnostics["conditional_information"])) < 0.05
      True

    References:
      docs/theory.md, T1 and T5; `gaussian` for the correction.
    """
    first, second, dtype = known_pair(x, y)
    size = len(first)
    check_counts(num_classes=num_classes)
    checked = check_labels(labels, size, num_classes=num_classes)
    if components is not None:
        check_counts(components=components)
    _checks.check_flag("correction", correction)
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
    # The scale of either does not matter.
    within = [
        center_unrounded(z, dtype, labels=checked, num_classes=num_classes)
        for z in (x, y)
    ]
    spaces = [round_together([z], dtype)[0] for z in within]
    static = num_classes, tuple(kept), components is not None, correction
    value, error, diagnostics = _within_classes(*spaces, checked, *static)
    pivot = diagnostics["smallest_pivot"]
    check_pivot(pivot, sum(kept), "x and y within a class; keep fewer components:")
    return Estimate(value, error, "estimate", diagnostics)


@functools.partial(jax.jit, static_argnums=range(3, 7))
def _within_classes(
    x: jax.Array,
    y: jax.Array,
    labels: jax.Array,
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
        members = jnp.where(member[:, None], samples, 0)
        scatter = matmul(members.T, members)
        scatter = jnp.where(size > 0, scatter, jnp.eye(sum(kept))).astype(x.dtype)
        value, squared, pivot = scatter_information(scatter, kept[0])
        if correction:
            value += bias_correction(table, size, *kept)
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
    variances, axes = jnp.linalg.eigh(matmul(samples.T, samples))
    kept = jnp.sum(variances[-components:]) / jnp.sum(variances)
    # A component of rounding errors must not pass for a coordinate: make it singular.
    resolution = len(variances) * jnp.finfo(samples.dtype).eps * variances[-1]
    axes = jnp.where(variances > resolution, axes, 0)
    return matmul(samples, axes[:, -components:]), kept
