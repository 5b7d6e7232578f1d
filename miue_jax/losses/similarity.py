"""Similarity of features within classes and between them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
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

# Added to every exponential by the published code; felt at low temperatures only.
_FLOOR = 1e-8


def similarity_loss(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    axis_name: AxisName | None = None,
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
    features, labels = _batch.prepare(features, labels)
    _batch.check_positive("temperature", temperature, features.dtype)
    return global_similarity(features, labels, temperature, axis_name)


def global_similarity(
    features: jax.Array,
    labels: jax.Array,
    temperature: ArrayLike,
    axis_name: AxisName | None,
) -> jax.Array:
    """`similarity_loss` of a batch that has been checked."""
    temperature = jnp.asarray(temperature, features.dtype)
    rows = (_batch.unit(features), labels)
    return _batch.on_devices(_compiled, rows, (temperature,), axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _similarity(
    units: jax.Array,
    labels: jax.Array,
    temperature: jax.Array,
    axis_name: AxisName | None,
) -> jax.Array:
    own = _samples(units, labels, temperature, axis_name)
    return _loss(*_sums(own, temperature, axis_name), axis_name)


# Outside of `jit` too, its loops are compiled once, not at each call.
_compiled = jax.jit(_similarity, static_argnums=(3,))


@functools.partial(_similarity.defjvp, symbolic_zeros=True)
def _similarity_jvp(
    axis_name: AxisName | None, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    # The derivative is that of all pairs at once, and itself a function of the features
    # that can be differentiated: through blocks, a derivative would keep all of them.
    units, labels, temperature = primals
    own = _samples(units, labels, temperature, axis_name)
    positives, negatives = _sums(own, temperature, axis_name)
    unit = 1 / (_batch.global_size(labels, axis_name) * temperature)
    both = positives + negatives
    slopes = -unit * (negatives / positives) / both, unit / both
    own = own._replace(values=(*own.values, *slopes))
    pull = functools.partial(_pull, temperature=temperature)
    gradient = as_given(over_pairs(pull, own, own, axis_name), own)
    tangent = jnp.zeros_like(positives[0])
    if not isinstance(tangents[0], SymbolicZero):
        tangent += jnp.sum(gradient * tangents[0])
    if not isinstance(tangents[2], SymbolicZero):
        # A score is a product of two features, over the temperature.
        by_score = jnp.sum(gradient * units) / 2
        tangent -= by_score * (tangents[2] / temperature)
    loss = _loss(positives, negatives, axis_name)
    return loss, _batch.total(tangent, axis_name)


def _samples(
    units: jax.Array,
    labels: jax.Array,
    temperature: jax.Array,
    axis_name: AxisName | None,
) -> Samples:
    own = samples(units, labels, axis_name)
    # The self-pair is the largest of its row and among the positives: with the largest
    # taken out, the sum over positives is at least 1 and nothing overflows.
    largest = jnp.sum(jnp.square(own.features), axis=1) / temperature
    return own._replace(values=(lax.stop_gradient(largest),))


def _sums(
    own: Samples, temperature: jax.Array, axis_name: AxisName | None
) -> tuple[jax.Array, jax.Array]:
    """Sums of the terms of positives and negatives, (n,) each."""

    def sums(own: Samples, other: Samples) -> tuple[jax.Array, jax.Array]:
        largest = own.values[0][:, None]
        terms = _exponentials(own, other, products(own, other) / temperature, largest)
        terms += _FLOOR * jnp.exp(-largest)
        counts = other.positions >= 0
        same = own.labels[:, None] == other.labels
        return (
            jnp.sum(terms, axis=1, where=same & counts),
            jnp.sum(terms, axis=1, where=~same & counts),
        )

    return over_pairs(sums, own, own, axis_name)


def _pull(own: Samples, other: Samples, *, temperature: jax.Array) -> jax.Array:
    """The gradient to the features of the samples, as far as it comes from others."""
    scores = products(own, other) / temperature
    same = own.labels[:, None] == other.labels
    # A pair counts in the row of the one and in that of the other.
    largest, positive, negative = (value[:, None] for value in own.values)
    slopes = jnp.where(same, positive, negative)
    weights = slopes * _exponentials(own, other, scores, largest)
    largest, positive, negative = other.values
    slopes = jnp.where(same, positive, negative)
    weights += slopes * _exponentials(own, other, scores, largest)
    return matmul(jnp.where(other.positions >= 0, weights, 0), other.features)


def _exponentials(
    own: Samples, other: Samples, scores: jax.Array, largest: jax.Array
) -> jax.Array:
    """Exponentials of scores relative to the largest of a row: 1 for that, no more."""
    relative = scores - largest
    itself = own.positions[:, None] == other.positions
    # What rounding leaves is large at low temperatures. Derivatives do not see this.
    excess = jnp.where(itself, relative, jnp.maximum(relative, 0))
    return jnp.exp(relative - lax.stop_gradient(excess))


def _loss(
    positives: jax.Array, negatives: jax.Array, axis_name: AxisName | None
) -> jax.Array:
    return _batch.mean(jnp.log1p(negatives / positives), axis_name)
