"""Objectives on features: cosine similarity, distance and covariance within classes.

All are pure functions of ``features`` (B, D) and ``labels`` (B,) that take
O(B * D + B^2) memory. With ``axis_name`` they are called by every device of a
`jax.shard_map` or `jax.pmap` with that device's rows, all of one number, and return the
loss of the global batch, equal on every device.

Gradients across devices: where ``psum`` is transposed to ``psum`` (``pmap``, and
``shard_map`` with ``check_vma=False``), differentiating on every device with respect to
that device's features gives the device count times the gradient of the global loss.
This is what makes the usual ``lax.pmean`` of parameter gradients the gradient of the
global loss. A signed or normalized step on the inputs does not see the factor. With
``check_vma=True`` the gradients with respect to features carry no factor.

Batches that are split over the devices of a mesh with explicit axes
(`jax.sharding.AxisType.Explicit`) need no ``axis_name``: rows stay where they are and
are compared with all.

Labels are integers from 0. A negative one is no class: it is refused where labels are
known, and makes the loss NaN where they are traced, in all losses alike. So is a label
that is not below the number of classes, for the loss that takes one.

What is known in a wider type than JAX computes in (float64 arrays of NumPy) is centered
within classes before it is rounded, where the loss does not depend on the origin.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from miue_jax import _checks
from miue_jax._arguments import check_real, check_scalar
from miue_jax._centering import center_classes, unrounded
from miue_jax._floats import power_of_two
from miue_jax._log_det import weighted_log_det

_AxisName = str | tuple[str, ...]

# Added to every exponential by the published code; felt at low temperatures only.
_FLOOR = 1e-8
_STATISTICS = ("trace", "logdet")


def similarity_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    axis_name: _AxisName | None = None,
) -> jax.Array:
    r"""Soft-nearest-neighbor loss with cosine similarity (intra-class similarity).

    With :math:`s_{ij} = \cos(z_i, z_j) / t` and :math:`P_i` the samples of the class of
    `i`, `i` itself included,

    .. math:: L = -\frac1B \sum_i \log \frac{\sum_{j \in P_i} (e^{s_{ij}} + 10^{-8})}
                                            {\sum_{j} (e^{s_{ij}} + 10^{-8})}.

    Equal features give log C for C balanced classes; classes collapsed to orthogonal
    directions give log(1 + (C - 1) exp(-1/t)), but for the published constant. The loss
    is computed from the ratio of the two parts of the denominator, so small values are
    exact in float32 too. A zero feature has cosine 0 to all.

    Args:
      features: (B, D), floating point; computed in float32 or wider.
      labels: (B,) integers from 0; negative ones give NaN where they are traced.
      temperature: t > 0, a scalar; from 1e8 times the smallest normal number of the
        type that is computed in (1e-30 in float32).
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss in nats, a scalar.

    Raises:
      ValueError: for wrong shapes or dtypes, negative labels, or a temperature that is
        not positive and finite or too small.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> loss = mj.similarity_loss(features, labels, temperature=0.5)
      >>> round(float(loss), 4), round(float(jnp.log1p(jnp.exp(-2.0))), 4)
      (0.1269, 0.1269)

    References:
      MI-UE (arXiv 2603.03725), intra-class similarity loss, as published in code;
      Frosst et al., Analyzing and Improving Representations with the Soft Nearest
      Neighbor Loss, 2019.
    """
    batch = _global_batch(features, labels, axis_name)
    _check_positive("temperature", temperature, batch[0].dtype)
    return _mean(_similarity(*batch, temperature), axis_name)


def distance_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    per_dimension: bool = True,
    axis_name: _AxisName | None = None,
) -> jax.Array:
    r"""Logarithm of the summed distance to the samples of the same class.

    .. math:: L = \frac1B \sum_i \log\Bigl(1 + \frac1D \sum_{j \in P_i}
                                           \lVert z_i - z_j \rVert_2\Bigr)

    with :math:`P_i` the samples of the class of `i`. The division by D is that of the
    published code; the paper's formula has none (`per_dimension` False). Coinciding
    features contribute gradient 0. Distances are found by the Gram identity relative to
    one member of the class: a pair nearer than about sqrt(64 eps) times its own
    distance from that member (0.003 in float32) is below its resolution and counts as
    coinciding. Squares are taken at the scale of the largest feature, so that features
    of any finite size have their loss and gradient.

    Args:
      features: (B, D), floating point, not normalized; computed in float32 or wider.
      labels: (B,) integers from 0; negative ones give NaN where they are traced.
      per_dimension: whether the sum of distances is divided by D.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss, a scalar, 0 where every class has collapsed to a point.

    Raises:
      ValueError: for wrong shapes or dtypes, or negative labels.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> float(mj.distance_loss(features, labels))
      0.0
      >>> round(float(mj.distance_loss(features, 0 * labels)), 4)  # log(1 + sqrt(2))
      0.8814

    References:
      MI-UE (arXiv 2603.03725), intra-class distance loss, as published in code.
    """
    _checks.check_flag("per_dimension", per_dimension)
    batch = _global_batch(features, labels, axis_name, shift=True)
    return _mean(_distance(*batch, per_dimension=per_dimension), axis_name)


def mi_ue_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    distance_weight: ArrayLike = 0.1,
    per_dimension: bool = True,
    axis_name: _AxisName | None = None,
) -> jax.Array:
    """The MI-UE objective: `similarity_loss` + ``distance_weight`` * `distance_loss`.

    Args:
      features: (B, D), floating point, not normalized; computed in float32 or wider.
      labels: (B,) integers from 0; negative ones give NaN where they are traced.
      temperature: of the similarity, > 0, a scalar.
      distance_weight: a scalar >= 0; 0.1 in the paper, 0 in the command the authors
        released, where the distance is not computed at all.
      per_dimension: whether the distances are divided by D, see `distance_loss`.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss, a scalar.

    Raises:
      ValueError: for wrong shapes or dtypes, negative labels, a temperature as
        `similarity_loss` refuses it, or a weight that is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 0, 1, 1])
      >>> loss = mj.mi_ue_loss(features, labels, temperature=0.5, distance_weight=0.1)
      >>> round(float(loss), 4)
      0.1269

    References:
      MI-UE (arXiv 2603.03725), the poisoning objective.
    """
    _check_weight(distance_weight)
    _checks.check_flag("per_dimension", per_dimension)
    batch = _global_batch(features, labels, axis_name)
    _check_positive("temperature", temperature, batch[0].dtype)
    loss = _similarity(*batch, temperature)
    if unrounded(features) is not None:
        batch = _global_batch(features, labels, axis_name, shift=True)
    if not (isinstance(distance_weight, int | float) and distance_weight == 0):
        loss += jnp.asarray(distance_weight, loss.dtype) * _distance(
            *batch, per_dimension=per_dimension
        )
    return _mean(loss, axis_name)


def conditional_covariance_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    statistic: Literal["trace", "logdet"] = "trace",
    noise_variance: ArrayLike = 0.1,
    normalize: bool = True,
    axis_name: _AxisName | None = None,
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
    All log-determinants come from one B x B Cholesky factor; covariances beyond 1/eps
    times sigma^2 may make it NaN.

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
    _check_positive("num_classes", num_classes)
    _check_integer("num_classes", num_classes)
    _checks.check_flag("normalize", normalize)
    if statistic not in _STATISTICS:
        raise _checks.unknown("statistic", statistic, _STATISTICS)
    rows, columns, row_labels, column_labels = _global_batch(
        features,
        labels,
        axis_name,
        num_classes=num_classes,
        shift=True,
        normalize=normalize,
    )
    _check_positive("noise_variance", noise_variance, rows.dtype)
    rows, columns = _relative(rows, columns, row_labels, column_labels)
    if statistic == "logdet":  # a determinant needs all of its class in one place
        rows, row_labels = columns, column_labels
    same = row_labels[:, None] == column_labels
    counts = jnp.sum(same, axis=1, dtype=rows.dtype)
    centered = rows - _matmul(same / counts[:, None], columns)
    unbiased = jnp.where(counts > 1, 1 / jnp.maximum(counts - 1, 1), 0)
    shares = counts / len(counts)
    if statistic == "trace":
        # The weights come first: no part overflows that the whole does not.
        loss = jnp.sum(jnp.square(centered * jnp.sqrt(shares * unbiased)[:, None]))
    else:
        # det(I + X'X) = det(I + XX'). With the entries between classes zero, the Gram
        # matrix and its Cholesky factor are block diagonal up to order, so the factor's
        # diagonal holds every class's determinant.
        scale = jnp.sqrt(unbiased / jnp.asarray(noise_variance, rows.dtype))
        scaled = centered * scale[:, None]
        gram = jnp.where(same, _matmul(scaled, scaled.T), 0)
        loss = weighted_log_det(gram, shares) / 2
    return _mean(loss, axis_name)


def _similarity(
    rows: jax.Array,
    columns: jax.Array,
    row_labels: jax.Array,
    column_labels: jax.Array,
    temperature: ArrayLike,
) -> jax.Array:
    cosines = _matmul(_unit(rows), _unit(columns).T)
    scores = cosines / jnp.asarray(temperature, cosines.dtype)
    # The self-pair is the largest of its row and among the positives: with the largest
    # taken out, the sum over positives is at least 1 and nothing overflows.
    largest = lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True))
    terms = jnp.exp(scores - largest) + _FLOOR * jnp.exp(-largest)
    same = row_labels[:, None] == column_labels
    positives = jnp.sum(terms, axis=1, where=same)
    negatives = jnp.sum(terms, axis=1, where=~same)
    return jnp.mean(jnp.log1p(negatives / positives))


def _distance(
    rows: jax.Array,
    columns: jax.Array,
    row_labels: jax.Array,
    column_labels: jax.Array,
    *,
    per_dimension: bool,
) -> jax.Array:
    scale = power_of_two(lax.stop_gradient(jnp.max(jnp.abs(columns))))
    rows, columns = rows / scale, columns / scale
    rows, columns = _relative(rows, columns, row_labels, column_labels)
    total = jnp.sum(rows**2, axis=1)[:, None] + jnp.sum(columns**2, axis=1)
    squared = total - 2 * _matmul(rows, columns.T)
    # Rounding of the identity, measured: up to 14 eps for D = 2048.
    resolution = 32 * jnp.finfo(squared.dtype).eps * total
    # Not `squared > resolution`: NaN has to stay NaN.
    apart = (row_labels[:, None] == column_labels) & ~(squared <= resolution)
    # sqrt sees 1 where it is not used: the gradient of sqrt at 0 times 0 is NaN.
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    divisor = rows.shape[1] if per_dimension else 1
    sums = jnp.sum(distances, axis=1) / divisor
    # Where the sum in its own unit might overflow, the one beside it is long lost.
    total = sums * scale
    small = ~(total > jnp.finfo(total.dtype).max ** 0.5)
    small_log = jnp.log1p(jnp.where(small, total, 0))
    return jnp.mean(
        jnp.where(small, small_log, jnp.log(jnp.where(small, 1, sums)) + jnp.log(scale))
    )


def _relative(
    rows: jax.Array,
    columns: jax.Array,
    row_labels: jax.Array,
    column_labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Features relative to the first member of their class, which is held constant.

    Distances within classes are the same, and products lose nothing to the distance
    between classes. A member is subtracted alike from equal features; a mean might be
    rounded apart.
    """
    members = lax.stop_gradient(columns)

    def relative(features: jax.Array, labels: jax.Array) -> jax.Array:
        first = jnp.argmax(labels[:, None] == column_labels, axis=1)
        if _axes(first):
            split = P(*_axes(first), None)
            return features - members.at[first].get(out_sharding=split)
        return features - members[first]

    return relative(rows, row_labels), relative(columns, column_labels)


def _unit(features: jax.Array) -> jax.Array:
    # The largest entry is taken out first so that squares neither vanish nor overflow.
    largest = lax.stop_gradient(jnp.max(jnp.abs(features), axis=1, keepdims=True))
    nonzero = largest > 0
    scaled = features / jnp.where(nonzero, largest, 1)
    squared = jnp.sum(jnp.square(scaled), axis=1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(nonzero, squared, 1))


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _mean(loss: jax.Array, axis_name: _AxisName | None) -> jax.Array:
    return loss if axis_name is None else lax.pmean(loss, axis_name)


def _global_batch(
    features: ArrayLike,
    labels: ArrayLike,
    axis_name: _AxisName | None,
    *,
    num_classes: int | None = None,
    shift: bool = False,
    normalize: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Checks a batch and gathers it, see `_gather`.

    `shift` says that the loss does not depend on the origin of a class, `normalize`
    scales every feature to unit norm before.
    """
    _check_batch(features, labels)
    known = not isinstance(labels, jax.core.Tracer)
    if known:
        _checks.check_label_range(labels, num_classes)
    values = unrounded(features) if shift else None
    if values is not None:
        if normalize:
            largest = np.max(np.abs(values), axis=1, keepdims=True)
            values = values / np.where(largest > 0, largest, 1)
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            values, normalize = values / np.where(norms > 0, norms, 1), False
        features = center_classes(values, labels if known else np.zeros(len(values)))
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if _axes(features) or _axes(labels):
        rows = [*_axes(features)[:1], *_axes(labels)]
        axis = next((axis for axis in rows if axis is not None), None)
        features = jax.sharding.reshard(features, P(axis, None))
        labels = jax.sharding.reshard(labels, P(axis))
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    if not known:
        valid = labels >= 0
        if num_classes is not None:
            valid &= labels < num_classes
        features = jnp.where(valid[:, None], features, jnp.nan)
    batch = _gather(features, labels, axis_name)
    if not normalize:
        return batch
    return _unit(batch[0]), _unit(batch[1]), *batch[2:]


def _gather(
    features: jax.Array, labels: jax.Array, axis_name: _AxisName | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns this device's features, all devices' features, and the same of labels."""
    if axis_name is None and _axes(features):
        columns, column_labels = (
            jax.sharding.reshard(part, P()) for part in (features, labels)
        )
        return features, columns, labels, column_labels
    if axis_name is None:
        return features, features, labels, labels
    columns = lax.all_gather(features, axis_name, tiled=True)
    return features, columns, labels, lax.all_gather(labels, axis_name, tiled=True)


def _axes(array: jax.Array) -> tuple[Any, ...]:
    """Axes of a mesh over which an array is split explicitly; () for none."""
    split = tuple(jax.typeof(array).sharding.spec)
    return split if any(axis is not None for axis in split) else ()


def _check_batch(features: ArrayLike, labels: ArrayLike) -> None:
    check_real("features", features)
    check_real("labels", labels)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"features must be (B, D) and not empty, got shape {features.shape}"
        )
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must have shape {features.shape[:1]} to match features of shape "
            f"{features.shape}, got {labels.shape}"
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")


def _check_weight(value: ArrayLike) -> None:
    check_scalar("distance_weight", value)
    if isinstance(value, jax.core.Tracer):
        return
    if not 0 <= float(np.asarray(value)) < np.inf:
        raise ValueError(f"distance_weight must be finite and >= 0, got {value}")


def _check_integer(name: str, value: ArrayLike) -> None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(f"{name} must be an integer, got {value}")


def _check_positive(name: str, value: ArrayLike, dtype: Any = None) -> None:
    """Refuses what is not a positive finite scalar, or too small for a type."""
    check_scalar(name, value)
    if isinstance(value, jax.core.Tracer):
        return
    number = float(np.asarray(value))
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value}")
    if dtype is not None:
        _checks.check_reciprocal(name, value, dtype)
