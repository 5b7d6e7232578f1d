"""Similarity of images to views of their class, and of views to images."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from miue_jax.losses import _batch
from miue_jax.losses._pairs import (
    AxisName,
    Samples,
    as_given,
    matmul,
    over_pairs,
    products,
    samples,
)


def paired_similarity_loss(
    features: ArrayLike,
    views: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    margin: ArrayLike = 0.0,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Similarity of images to the views of their class, and of views to its images.

    With unit features :math:`z_i` of the images and :math:`v_i` of a view of each,
    :math:`P_i` the samples of the class of `i`, and

    .. math:: \ell(u, w)_i = \log\Bigl(1 + e^{m/t}
       \frac{\sum_{j \notin P_i} e^{u_i^\top w_j / t}}
            {\sum_{j \in P_i} e^{u_i^\top w_j / t}}\Bigr), \qquad
       L = \frac1{2B} \sum_i \bigl(\ell(z, v)_i + \ell(v, z)_i\bigr).

    No feature is compared with itself: an image is the positive of its own view, so the
    loss is small only if features of a class agree across views. `similarity_loss` on
    views alone is satisfied by features that agree among hard views and elsewhere, each
    in its own place. With `views` equal to `features` and no margin it is
    `similarity_loss`, but for the constant of the published code.

    Args:
      features: (B, D) of the images, floating point; computed in float32 or wider.
      views: (B, D) of a view of each of them.
      labels: (B,) integers from 0; negative ones give NaN where they are traced.
      temperature: t > 0, a scalar, as in `similarity_loss`.
      margin: m >= 0, a scalar: how much nearer, in cosines, a class must be than the
        others.
      axis_name: mesh axis (or axes) over which the batch is sharded.

    Returns:
      The loss in nats, a scalar.

    Raises:
      ValueError: for wrong shapes or dtypes, negative labels, a temperature as
        `similarity_loss` refuses it, or a margin that is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import miue_jax as mj
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> labels = jnp.array([0, 1])
      >>> same = mj.losses.paired_similarity_loss(
      ...     features, features, labels, temperature=0.5
      ... )
      >>> round(float(same), 4)  # log(1 + exp(-2))
      0.1269
      >>> swapped = mj.losses.paired_similarity_loss(
      ...     features, features[::-1], labels, temperature=0.5
      ... )
      >>> round(float(swapped), 4)  # log(1 + exp(2))
      2.1269

    References:
      Frosst et al., Analyzing and Improving Representations with the Soft Nearest
      Neighbor Loss, 2019; Khosla et al., Supervised Contrastive Learning, 2020, on
      several views; Wang et al., CosFace, 2018, on the margin.
    """
    if jnp.shape(features) != jnp.shape(views):
        raise ValueError(
            "features and views must have one shape, got "
            f"{jnp.shape(features)} and {jnp.shape(views)}"
        )
    features, labels = _batch.prepare(features, labels)
    views, labels = _batch.prepare(views, labels)
    _batch.check_positive("temperature", temperature, features.dtype)
    _batch.check_weight(margin, "margin")
    dtype = jnp.promote_types(features.dtype, views.dtype)
    rows = (*(_batch.unit(rows.astype(dtype)) for rows in (features, views)), labels)
    settings = (jnp.asarray(temperature, dtype), jnp.asarray(margin, dtype))
    return _batch.on_devices(_compiled, rows, settings, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def _paired(
    images: jax.Array,
    views: jax.Array,
    labels: jax.Array,
    temperature: jax.Array,
    margin: jax.Array,
    axis_name: AxisName | None,
) -> jax.Array:
    sides = [samples(units, labels, axis_name) for units in (images, views)]
    odds = [
        _odds(*_log_sums(own, other, temperature, axis_name), temperature, margin)
        for own, other in (sides, sides[::-1])
    ]
    return _loss(odds, axis_name)


# Outside of `jit` too, its loops are compiled once, not at each call.
_compiled = jax.jit(_paired, static_argnums=(5,))


@functools.partial(_paired.defjvp, symbolic_zeros=True)
def _paired_jvp(
    axis_name: AxisName | None, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    # As that of `similarity_loss`.
    images, views, labels, temperature, margin = primals
    unit = 1 / (2 * _batch.global_size(labels, axis_name))
    sides = [samples(units, labels, axis_name) for units in (images, views)]
    sums = [
        _log_sums(own, other, temperature, axis_name)
        for own, other in (sides, sides[::-1])
    ]
    odds = [_odds(*logs, temperature, margin) for logs in sums]
    slopes = [unit * jax.nn.sigmoid(each) for each in odds]
    sides = [
        side._replace(values=(*logs, slope))
        for side, logs, slope in zip(sides, sums, slopes, strict=True)
    ]

    def gradient(own: Samples, other: Samples) -> jax.Array:
        pull = functools.partial(_pull, temperature=temperature)
        return as_given(over_pairs(pull, own, other, axis_name), own) / temperature

    of_images = gradient(*sides)
    tangent = jnp.zeros_like(odds[0][0])
    if not isinstance(tangents[0], SymbolicZero):
        tangent += jnp.sum(of_images * tangents[0])
    if not isinstance(tangents[1], SymbolicZero):
        tangent += jnp.sum(gradient(*sides[::-1]) * tangents[1])
    by_margin = (jnp.sum(slopes[0]) + jnp.sum(slopes[1])) / temperature
    if not isinstance(tangents[3], SymbolicZero):
        # It divides the scores, products of two features, and the margin.
        divided = jnp.sum(of_images * images) + by_margin * margin
        tangent -= divided * (tangents[3] / temperature)
    if not isinstance(tangents[4], SymbolicZero):
        tangent += by_margin * tangents[4]
    return _loss(odds, axis_name), _batch.total(tangent, axis_name)


def _log_sums(
    own: Samples, other: Samples, temperature: jax.Array, axis_name: AxisName | None
) -> tuple[jax.Array, jax.Array]:
    """Logarithms of sums of exponentials over negatives and positives, (n,) each."""

    def sums(own: Samples, other: Samples) -> tuple[jax.Array, jax.Array]:
        scores = products(own, other) / temperature
        same = own.labels[:, None] == other.labels
        counts = other.positions >= 0
        return log_sum(scores, ~same & counts), log_sum(scores, same & counts)

    start = _nothing(own.features.dtype)
    return over_pairs(sums, own, other, axis_name, join=jnp.logaddexp, start=start)


def _pull(own: Samples, other: Samples, *, temperature: jax.Array) -> jax.Array:
    """The gradient to scores, times the features of the others."""
    scores = products(own, other) / temperature
    same = own.labels[:, None] == other.labels

    def weights(
        negatives: jax.Array, positives: jax.Array, slopes: jax.Array
    ) -> jax.Array:
        shares = jnp.exp(scores - jnp.where(same, positives, negatives))
        return jnp.where(same, -slopes, slopes) * shares

    # A pair counts in the row of the one and in that of the other.
    both = weights(*(value[:, None] for value in own.values)) + weights(*other.values)
    return matmul(jnp.where(other.positions >= 0, both, 0), other.features)


def _odds(
    negatives: jax.Array,
    positives: jax.Array,
    temperature: jax.Array,
    margin: jax.Array,
) -> jax.Array:
    """Logarithms of the odds exp(margin / t) negatives / positives."""
    return negatives - positives + margin / temperature


def _loss(odds: list[jax.Array], axis_name: AxisName | None) -> jax.Array:
    first, second = (_batch.mean(jax.nn.softplus(each), axis_name) for each in odds)
    return (first + second) / 2


def log_sum(scores: jax.Array, where: jax.Array) -> jax.Array:
    """Logarithm of the sum of exponentials of some scores of each row.

    That of nothing is finite, so that a row without negatives has loss and gradient 0,
    not NaN.
    """
    nothing = _nothing(scores.dtype)
    return jax.nn.logsumexp(jnp.where(where, scores, nothing), axis=1)


def _nothing(dtype: Any) -> float:
    return -float(jnp.finfo(dtype).max) / 4
