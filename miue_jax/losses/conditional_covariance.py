"""Size of the covariance of features within classes."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._log_det import factor_and_logs
from miue_jax.losses import _batch
from miue_jax.losses._pairs import AxisName, matmul

_STATISTICS = ("trace", "logdet")


def conditional_covariance_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    statistic: Literal["trace", "logdet"] = "trace",
    noise_variance: ArrayLike = 0.1,
    normalize: bool = True,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Size of the covariance of the features within classes, averaged over classes.

    .. math:: \sum_y \pi_y \operatorname{tr} S_y  \quad\text{or}\quad
              \tfrac12 \sum_y \pi_y \log\det(I + S_y / \sigma^2)

    with :math:`\pi_y = n_y / B` and :math:`S_y` the unbiased covariance (division by
    :math:`n_y - 1`) of the class in the batch. With the covariance of the population,
    the second bounds the information that features observed in noise of variance
    sigma^2 carry about the sample beyond its label, and the first over 2 sigma^2 bounds
    the second. The covariance is unbiased so that the trace does not shrink with the
    class count of the batch (by a fifth at five samples a class), and because the trace
    for unit features is then exactly one minus the mean cosine between different
    samples of the class: the quantity `similarity_loss` pulls on, without self-pairs.
    The plug-in log-determinant underestimates that of the population all the same. Both
    keep their digits near collapse: the second is that of
    `miue_jax.information.bounds.within_class_logdet`.

    Classes with one sample in the batch contribute 0, absent classes have no weight.
    A log-determinant comes from a Cholesky factor of the size of its class or of the
    features, whichever is smaller; covariances beyond 1/eps times sigma^2 may make it
    NaN. Its gradient can be differentiated in forward mode (`jax.hessian`), not in
    reverse mode again.

    Args:
      features: (B, D), floating point; computed in float32 or wider.
      labels: (B,) integers in [0, num_classes); others give NaN where they are traced.
      num_classes: number of classes.
      statistic: "trace" or "logdet".
      noise_variance: sigma^2 > 0 of "logdet", in the scale of the (unit) features.
      normalize: scale every feature to unit norm first.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss, a scalar >= 0; in nats for "logdet".

    Raises:
      ValueError: for wrong shapes or dtypes, labels out of range, an unknown statistic,
        a noise variance or number of classes that is not positive and finite (the
        variance from 1e-30, see `similarity_loss`), a number of classes that is no
        integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> loss = mj.conditional_covariance_loss(features, 0 * labels, num_classes=2)
      >>> round(float(loss), 4)  # one minus the mean cosine between samples
      0.6667

    References:
      MI-UE (arXiv 2603.03725), covariance reduction; Cover and Thomas, Elements of
      Information Theory, sections 8.6 and 17.9, for the Gaussian bound.
    """
    _batch.check_positive("num_classes", num_classes)
    _batch.check_integer("num_classes", num_classes)
    _checks.check_flag("normalize", normalize)
    if statistic not in _STATISTICS:
        raise _checks.unknown("statistic", statistic, _STATISTICS)
    features, labels = _batch.prepare(
        features, labels, num_classes=num_classes, shift=True, normalize=normalize
    )
    _batch.check_positive("noise_variance", noise_variance, features.dtype)
    noise = jnp.asarray(noise_variance, features.dtype)
    num_classes = int(num_classes)
    # Labels that are no class have NaN features, which no class must miss.
    highest = min(num_classes - 1, int(jnp.iinfo(labels.dtype).max))
    labels = jnp.clip(labels, 0, highest)

    def loss(
        features: jax.Array,
        labels: jax.Array,
        noise: jax.Array,
        axis_name: AxisName | None,
    ) -> jax.Array:
        classes = _batch.classes(labels, axis_name)
        relative = features - _batch.first_members(
            features, labels, classes.first, axis_name
        )
        # A batch has no more classes than samples.
        most = min(num_classes, _batch.global_size(labels, axis_name))
        if statistic == "trace":
            return _trace(relative, classes, most, axis_name)
        return _compiled(relative, classes, noise, most, axis_name)

    return _batch.on_devices(loss, (features, labels), (noise,), axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _trace(
    features: jax.Array,
    classes: _batch.Classes,
    most: int,
    axis_name: AxisName | None,
) -> jax.Array:
    deviations, _ = _deviations(features, classes, most, axis_name)
    return _batch.total(jnp.sum(jnp.square(deviations)), axis_name)


@_trace.defjvp
def _trace_jvp(
    most: int,
    axis_name: AxisName | None,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[jax.Array, jax.Array]:
    # Deviations from a mean sum up to 0: the mean may be held constant.
    features, classes = primals
    deviations, roots = _deviations(features, classes, most, axis_name)
    loss = jnp.sum(jnp.square(deviations))
    tangent = 2 * jnp.sum(deviations * roots * tangents[0])
    return _batch.total(loss, axis_name), _batch.total(tangent, axis_name)


def _deviations(
    features: jax.Array,
    classes: _batch.Classes,
    most: int,
    axis_name: AxisName | None,
) -> tuple[jax.Array, jax.Array]:
    """Deviations from the means of classes times the roots of weights; those roots."""
    counts = classes.counts.astype(features.dtype)[:, None]
    parts = jax.ops.segment_sum(features / counts, classes.ranks, most)
    centered = features - _batch.total(parts, axis_name)[classes.ranks]
    size = _batch.global_size(classes.ranks, axis_name)
    unbiased = jnp.where(counts > 1, 1 / jnp.maximum(counts - 1, 1), 0)
    # The weights come first: no part overflows that the whole does not.
    roots = jnp.sqrt(counts / size * unbiased)
    return centered * roots, roots


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _log_det(
    features: jax.Array,
    classes: _batch.Classes,
    noise: jax.Array,
    most: int,
    axis_name: AxisName | None,
) -> jax.Array:
    return _log_dets(features, classes, noise, most, axis_name, with_gradient=False)[0]


# Outside of `jit` too, its loops are compiled once, not at each call.
_compiled = jax.jit(_log_det, static_argnums=(3, 4))


@functools.partial(_log_det.defjvp, symbolic_zeros=True)
def _log_det_jvp(
    most: int,
    axis_name: AxisName | None,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[jax.Array, jax.Array]:
    features, classes, noise = primals
    loss, gradient = _log_dets(
        features, classes, noise, most, axis_name, with_gradient=True
    )
    tangent = jnp.zeros_like(features[0, 0])
    if not isinstance(tangents[0], SymbolicZero):
        tangent += jnp.sum(gradient * tangents[0])
    if not isinstance(tangents[2], SymbolicZero):
        # The loss is one of features over the root of the noise.
        tangent -= jnp.sum(gradient * features) / 2 * (tangents[2] / noise)
    return loss, _batch.total(tangent, axis_name)


def _log_dets(
    features: jax.Array,
    classes: _batch.Classes,
    noise: jax.Array,
    most: int,
    axis_name: AxisName | None,
    *,
    with_gradient: bool,
) -> tuple[jax.Array, jax.Array]:
    """The loss and, if wanted, its gradient to the features of this device.

    Classes follow each other, each in the smallest of a few sizes that holds it. A
    determinant needs all of its class in one place: features are gathered, and each
    device takes some of the classes.
    """
    devices, place = 1, 0
    if axis_name is not None:
        features, classes = lax.all_gather((features, classes), axis_name, tiled=True)
        devices, place = lax.axis_size(axis_name), lax.axis_index(axis_name)
    order = jnp.argsort(classes.ranks)
    ranks, ordered = classes.ranks[order], features[order]
    own = place + devices * jnp.arange(-(-most // devices))
    starts = jnp.searchsorted(ranks, own)
    counts = jnp.searchsorted(ranks, own, side="right") - starts
    # From the smallest class on, those of one height after each other. In a loop for
    # each height, a gradient is changed in place; a switch of heights would copy it.
    by_count = jnp.argsort(counts)
    starts, counts = starts[by_count], counts[by_count]
    heights = _heights(len(ranks))
    ends = jnp.searchsorted(counts, jnp.asarray([0, *heights]), side="right")
    loss_gradient = jnp.zeros_like(features[0, 0]), jnp.zeros_like(ordered)
    for index, height in enumerate(heights):

        def add(
            place: jax.Array, carry: tuple[jax.Array, jax.Array], height: int = height
        ) -> tuple[jax.Array, jax.Array]:
            return _add_class(
                *carry,
                ordered,
                starts[place],
                counts[place],
                noise,
                height=height,
                with_gradient=with_gradient,
            )

        loss_gradient = lax.fori_loop(ends[index], ends[index + 1], add, loss_gradient)
    loss, gradient = loss_gradient
    gradient = gradient[jnp.argsort(order)]
    if axis_name is not None:
        loss = lax.psum(loss, axis_name)
        gradient = lax.psum_scatter(gradient, axis_name, tiled=True)
    return loss, gradient


def _heights(size: int) -> list[int]:
    """Numbers of rows, of which one holds a class with at most as many to spare."""
    return [*(2**k for k in range(4, (size - 1).bit_length())), size]


def _add_class(
    loss: jax.Array,
    gradient: jax.Array,
    ordered: jax.Array,
    start: jax.Array,
    count: jax.Array,
    noise: jax.Array,
    *,
    height: int,
    with_gradient: bool,
) -> tuple[jax.Array, jax.Array]:
    """Adds a class of at most `height` samples to the loss and to its gradient."""
    size, dimension = ordered.shape
    # These rows hold the class, and others that do not count.
    first = jnp.minimum(start, size - height)
    places = first + jnp.arange(height)
    members = ((places >= start) & (places < start + count))[:, None]
    rows = jnp.where(members, lax.dynamic_slice_in_dim(ordered, first, height), 0)
    number = count.astype(rows.dtype)
    centered = jnp.where(members, rows - jnp.sum(rows / number, axis=0), 0)
    unbiased = jnp.where(count > 1, 1 / jnp.maximum(number - 1, 1), 0)
    scale = jnp.sqrt(unbiased / noise)
    # det(I + XX') = det(I + X'X): of the two matrices the smaller.
    wide = height <= dimension
    scaled = centered * scale if wide else (centered * scale).T
    factor, logs = factor_and_logs(matmul(scaled, scaled.T))
    share = number / size
    loss += share * jnp.sum(logs) / 2
    if with_gradient:
        # Products with an inverse are faster than substitution in as many columns.
        identity = jnp.eye(len(factor), dtype=factor.dtype)
        inverse = lax.linalg.triangular_solve(
            factor, identity, left_side=True, lower=True
        )
        pull = matmul(matmul(inverse.T, inverse), scaled)
        pull = (pull if wide else pull.T) * (share * scale)
        before = lax.dynamic_slice_in_dim(gradient, first, height)
        after = jnp.where(members, pull, before)
        gradient = lax.dynamic_update_slice_in_dim(gradient, after, first, axis=0)
    return loss, gradient
