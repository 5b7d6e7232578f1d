"""Sliced mutual information: the information between low-dimensional projections."""

import functools
from typing import Literal, get_args

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
    check_key,
    known_pair,
    matmul,
    round_together,
)
from miue_jax.information.estimators.gaussian import (
    check_pivot,
    gaussian,
    smallest_pivot,
)
from miue_jax.information.estimators.ksg import ksg
from miue_jax.information.estimators.relations import warn_of_function

Directions = Literal["random", "pca", "cca"]
SliceEstimator = Literal["ksg", "gaussian"]


def sliced(
    key: jax.Array,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_slices: int = 128,
    components: int = 1,
    shared: bool = False,
    directions: Directions = "random",
    estimator: SliceEstimator = "ksg",
    neighbors: int = 5,
    chunk_size: int = 512,
) -> Estimate:
    r"""k-sliced mutual information, averaged over random projections.

    .. math:: \hat I = \frac1m \sum_{s=1}^m
                \hat I(\Theta_s^\top X; \Phi_s^\top Y)

    with frames :math:`\Theta_s, \Phi_s` of k orthonormal columns, uniform on the
    Stiefel manifold. By data processing the population value is a lower bound on
    I(X; Y); the estimate within a slice is biased like that of `ksg` or `gaussian`.

    It moves the wrong way under within-class collapse: as poisoned features collapse to
    one point per class, I(X; Y) falls, yet in 16 and more dimensions the sliced
    information rises, because most directions see the classes only once the spread
    within them is gone. It decays like 1/(2d) even for Y = X. It is provided for
    comparison with the literature, not as evidence about collapse.

    Args:
      key: random key.
      x: (N, dx) or (N,).
      y: (N, dy) or (N,).
      num_slices: m, number of random directions.
      components: k, at most dx and dy. Constant columns and linear relations between
        columns are no obstacle to "ksg".
      shared: use the same frame for x and y, which live in one feature space.
      directions: "random"; or one slice along the leading principal ("pca") or
        canonical ("cca") directions, fitted on a random half of the samples and
        evaluated on the other, so that the bound holds.
      estimator: within a slice, "ksg" or "gaussian" (corrected).
      neighbors: number of neighbors for "ksg".
      chunk_size: query rows at a time for "ksg".

    Returns:
      The estimate, nats. The standard error is that of the mean over slices, without
      the error within slices; NaN for a single slice. Diagnostics: ``slices``, (m,)
      nats, the information of each.

    Raises:
      ValueError: for bad samples, numbers that are not positive, more components than
        dimensions, unknown names, a shared frame with spaces that differ or with fitted
        directions, or, for "gaussian", a slice with a singular covariance, as where x
        varies in fewer directions than components. Under `jax.jit` such a slice is NaN.

    Warns:
      FunctionalRelationWarning: as `ksg` does, if slices of x and y meet by design.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x = np.random.default_rng(0).standard_normal((100, 3))
      >>> estimate = estimators.sliced(
      ...     jax.random.key(0), x, x, num_slices=4, estimator="gaussian"
      ... )
      >>> estimate.kind, estimate.diagnostics["slices"].shape
      ('lower', (4,))

    References:
      Goldfeld and Greenewald, Sliced mutual information: a scalable measure of
      statistical dependence, 2021; Goldfeld, Greenewald, Nuradha and Reeves, k-sliced
      mutual information, 2022.
    """
    check_key(key)
    check_counts(
        num_slices=num_slices,
        components=components,
        neighbors=neighbors,
        chunk_size=chunk_size,
    )
    _checks.check_flag("shared", shared)
    _checks.check_choice("directions", directions, get_args(Directions))
    _checks.check_choice("estimator", estimator, get_args(SliceEstimator))
    # Fitting directions leaves half of the samples for the estimate.
    least = neighbors + 1 if estimator == "ksg" else 2 * components + 1
    least = least if directions == "random" else 2 * least
    first, second, dtype = known_pair(x, y, minimum=least)
    dx, dy = first.shape[1], second.shape[1]
    if components > min(dx, dy):
        raise ValueError(f"{components} components of x with {dx} and y with {dy}")
    if shared and (dx != dy or directions != "random"):
        raise ValueError(
            f"a shared frame needs random directions and spaces of one dimension, got "
            f"{directions!r} and {dx}, {dy}"
        )
    if directions == "cca" and len(first) // 2 <= dx + dy:
        raise ValueError(
            f"half of {len(first)} samples of {dx} + {dy} dimensions: canonical "
            "directions need more samples than dimensions"
        )
    full = components == dx == dy  # the slices hold all that there is
    known = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    if known and (shared or full or directions != "random"):
        warn_of_function(first, second, stacklevel=2)
    # The scale of either does not matter.
    x, y = (round_together([center_unrounded(z, dtype)], dtype)[0] for z in (x, y))
    drawn = num_slices, components, shared, directions
    slices, pivots = _slices(key, x, y, *drawn, estimator, neighbors, chunk_size)
    check_pivot(
        jnp.min(pivots),
        2 * components,
        f"a slice of {components} + {components} components (take fewer, or the "
        "estimator 'ksg')",
    )
    count = len(slices)
    error = (
        jnp.std(slices, ddof=1) / count**0.5
        if count > 1
        else jnp.full_like(slices[0], jnp.nan)
    )
    return Estimate(jnp.mean(slices), error, "lower", {"slices": slices})


@functools.partial(jax.jit, static_argnums=range(3, 10))
def _slices(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    num_slices: int,
    components: int,
    shared: bool,
    directions: Directions,
    estimator: SliceEstimator,
    neighbors: int,
    chunk_size: int,
) -> tuple[jax.Array, jax.Array]:
    """The information of each slice, and how far each is from a singular covariance."""

    def information(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        if estimator == "gaussian":
            found = gaussian(x, y)
            pivot = found.diagnostics["smallest_pivot"]
            singular = ~(pivot > smallest_pivot(x.dtype, 2 * components))
            return jnp.where(singular, jnp.nan, found.value), pivot
        found = ksg(x, y, neighbors=neighbors, chunk_size=chunk_size)
        return found.value, jnp.ones_like(found.value)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_x, key_y = jax.random.split(key)
        frame_x = _frame(key_x, x.shape[1], components, x.dtype)
        frame_y = frame_x if shared else _frame(key_y, y.shape[1], components, x.dtype)
        return information(matmul(x, frame_x), matmul(y, frame_y))

    if directions == "random":
        return lax.map(one, jax.random.split(key, num_slices))
    order = jax.random.permutation(key, len(x))
    fitted, rest = order[: len(x) // 2], order[len(x) // 2 :]
    fit = _principal if directions == "pca" else _canonical
    frames = fit(x[fitted], y[fitted], components)
    projected = [matmul(z[rest], f) for z, f in zip((x, y), frames, strict=True)]
    value, pivot = information(*projected)
    return value[None], pivot[None]


def _frame(key: jax.Array, dim: int, components: int, dtype: jnp.dtype) -> jax.Array:
    """A uniform Stiefel frame: the Q factor of a Gaussian matrix, diag(R) positive."""
    q, r = jnp.linalg.qr(jax.random.normal(key, (dim, components), dtype))
    return q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(dtype)


def _principal(x: jax.Array, y: jax.Array, components: int) -> list[jax.Array]:
    def axes(z: jax.Array) -> jax.Array:
        z = z - jnp.mean(z, axis=0)
        variances, directions = jnp.linalg.eigh(matmul(z.T, z))
        # A direction of rounding errors must not pass for one of spread.
        rounding = len(variances) * jnp.finfo(z.dtype).eps * variances[-1]
        return jnp.where(variances > rounding, directions, 0)[:, -components:]

    return [axes(x), axes(y)]


def _canonical(x: jax.Array, y: jax.Array, components: int) -> list[jax.Array]:
    (x, back_x), (y, back_y) = _white(x), _white(y)
    left, _, right = jnp.linalg.svd(matmul(x.T, y), full_matrices=False)
    pairs = ((back_x, left), (back_y, right.T))
    return [matmul(back, axes[:, :components]) for back, axes in pairs]


def _white(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Orthonormal scores of samples, and the map of their axes to those of the samples.

    Directions without spread, of constant columns or linear relations, are 0.
    """
    z = z - jnp.mean(z, axis=0)
    largest = jnp.max(jnp.abs(z), axis=0)
    scale = jnp.where(largest > 0, largest, 1)
    scores, values, axes = jnp.linalg.svd(z / scale, full_matrices=False)
    kept = values > max(z.shape) * jnp.finfo(z.dtype).eps * values[0]
    inverse = jnp.where(kept, len(z) ** 0.5 / jnp.where(kept, values, 1), 0)
    return jnp.where(kept, scores, 0), axes.T * inverse / scale[:, None]
