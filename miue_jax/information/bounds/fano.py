"""Accuracy from information and back: Fano's inequality and re-identification."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from miue_jax._arguments import check_real
from miue_jax.information._core import is_traced
from miue_jax.information.bounds.classes import (
    check_classes,
    check_positive,
    class_counts,
)
from miue_jax.information.bounds.cosine import class_lse
from miue_jax.information.bounds.within_class import class_logdets

# Where a series replaces a difference of logarithms, and terms that float64 needs.
_SMALL, _TERMS = 0.125, 18


def fano_accuracy(information: ArrayLike, num_classes: ArrayLike) -> jax.Array:
    r"""Largest accuracy that an amount of information about the label allows.

    .. math:: \max \{a : d(a \,\|\, 1/K) \le I\}, \quad
              d(a \| p) = a \log\frac ap + (1 - a) \log\frac{1 - a}{1 - p}

    If I(Y; Z) <= I, no classifier that sees Z predicts a uniformly distributed label Y
    with a higher accuracy; equally likely confusions attain the bound. For accuracy on
    clean images, I(Y; Zc) <= I(Zc; Zp) + CE_p, so an upper bound on I(Zc; Zp) can be
    used together with the cross-entropy of the poison. For a label that is not uniform,
    pass 1 / max(prior) as the number of classes: still a bound, but not attained.

    Ten classes: 0.05 nats allow 20.7 %, 0.2 33.2 %, 0.5 49.5 %, 1 68.9 %, 2 95.1 %.

    Args:
      information: I in nats, any shape; negative values (possible for an estimate)
        count as 0.
      num_classes: K >= 1, not necessarily an integer; broadcast against the
        information.

    Returns:
      The accuracy, in [1/K, 1]; 1 from log K on. Differentiable by the implicit
      function theorem; the derivative, infinite at 0 nats, is given as 0 there.

    Raises:
      ValueError: for NaN or a number of classes below 1.

    Example:
      >>> from miue_jax.information import bounds
      >>> round(float(bounds.fano_accuracy(0.5, 10)), 3)
      0.495

    References:
      docs/theory.md, T10; Cover and Thomas, Elements of Information Theory, theorem
      2.10.1 (Fano).
    """
    information, chance = _with_chance("information", information, num_classes)
    if not is_traced(information) and bool(jnp.any(jnp.isnan(information))):
        raise ValueError("information is NaN")
    return _largest_accuracy(information, chance)


def fano_information(accuracy: ArrayLike, num_classes: ArrayLike) -> jax.Array:
    r"""Least information about the label that an accuracy proves.

    .. math:: d(a \,\|\, 1/K) = a \log(a K) + (1 - a) \log\frac{(1 - a) K}{K - 1}

    A lower bound on I(Y; Z) for a uniformly distributed label and any classifier that
    sees Z, given its population accuracy; the inverse of `fano_accuracy` from chance
    level on.

    Args:
      accuracy: a in [0, 1], any shape.
      num_classes: K >= 1, not necessarily an integer; broadcast against the accuracy.

    Returns:
      Nats; 0 at chance level, log K at 1.

    Raises:
      ValueError: for an accuracy outside of [0, 1] or a number of classes below 1.

    Example:
      >>> from miue_jax.information import bounds
      >>> round(float(bounds.fano_information(1.0, 10)), 4)  # log 10
      2.3026

    References:
      docs/theory.md, T10.
    """
    accuracy, chance = _with_chance("accuracy", accuracy, num_classes)
    if not is_traced(accuracy):
        outside = ~((accuracy >= 0) & (accuracy <= 1))
        if bool(jnp.any(outside)):
            raise ValueError(f"accuracy is {accuracy}; it must be in [0, 1]")
    return _divergence(accuracy - chance, chance)


def reidentification_accuracy(
    features: ArrayLike, labels: ArrayLike, noise_variance: ArrayLike, num_classes: int
) -> jax.Array:
    r"""Largest accuracy of identifying an image of its class from its noisy feature.

    Someone who knows the label, the features of all images, and one feature in Gaussian
    noise guesses the image. In a class of n equally likely images the accuracy a
    satisfies

    .. math:: d(a \,\|\, 1/n) \le I(\text{index}; \tilde Z_p \mid y)
              \le \min\bigl\{\tfrac12 \log\det(I + S_y / \sigma^2),
              -\tfrac1n \sum_i \log \tfrac1n \sum_j e^{-|z_i - z_j|^2 / 2 \sigma^2}
              \bigr\}

    with d as in `fano_accuracy` and S_y divided by n, since the law is that of the
    images themselves: there is no sampling error, and the value is a certified upper
    bound. This is what collapse of the features does certify.

    Args:
      features: (N, D), not normalized here: sigma^2 is on their scale.
      labels: (N,) integers in [0, num_classes); traced labels out of range give NaN.
      noise_variance: sigma^2 > 0, a scalar.
      num_classes: number of classes; absent ones have no weight.

    Returns:
      The bound on the accuracy over all images, a scalar in (0, 1]; images that are
      alone in their class count as identified. For one class, pass only its features.

    Raises:
      ValueError: for bad shapes or values.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> features = np.ones((4, 8))  # collapsed: nothing better than guessing
      >>> accuracy = bounds.reidentification_accuracy(features, [0, 0, 0, 0], 0.1, 1)
      >>> round(float(accuracy), 4)
      0.25

    References:
      docs/theory.md, T14.
    """
    features, labels, size = check_classes(features, labels, num_classes, minimum=1)
    check_positive("noise_variance", noise_variance, features.dtype)
    noise = jnp.asarray(noise_variance, features.dtype)
    counts = jnp.maximum(class_counts(labels, num_classes, features.dtype), 1)
    # Division by n instead of n - 1, expressed as more noise.
    noises = noise * counts / jnp.maximum(counts - 1, 1)
    logdets = class_logdets(features, labels, noises, num_classes, size)
    pairwise = class_lse(features, labels, 2 * noise, num_classes, size)
    # Beyond its precision the log-determinant is NaN and the other bound is used alone.
    information = jnp.where(logdets < pairwise, logdets, pairwise)
    return jnp.mean(fano_accuracy(information, counts)[labels])


def _with_chance(
    name: str, value: ArrayLike, num_classes: ArrayLike
) -> tuple[jax.Array, ...]:
    check_real(name, value)
    check_real("num_classes", num_classes)
    value = jnp.asarray(value)
    classes = jnp.asarray(num_classes)
    fits = (classes >= 1) & (classes < jnp.inf)
    if not is_traced(classes) and not bool(jnp.all(fits)):
        raise ValueError(
            f"num_classes is {num_classes}; it must be finite and at least 1"
        )
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    return tuple(jnp.broadcast_arrays(value.astype(dtype), 1 / classes.astype(dtype)))


def _divergence(excess: jax.Array, chance: jax.Array) -> jax.Array:
    r"""The divergence d(p + t || p) for an excess t over the chance level p.

    .. math:: p\, \varphi(t / p) + (1 - p)\, \varphi(-t / (1 - p)),
              \quad \varphi(u) = (1 + u) \log(1 + u) - u \ge 0

    The logarithms of accuracies would cancel near chance level; these parts add up.
    """
    others = jnp.where(chance < 1, 1 - chance, 1)
    value = chance * _gain(excess / chance) + others * _gain(-excess / others)
    # With one class an error has no chance level to be compared with.
    impossible = (chance >= 1) & (excess < 0)
    return jnp.where(impossible, jnp.inf, jnp.where(chance < 1, value, 0 * value))


def _gain(u: jax.Array) -> jax.Array:
    """The function (1 + u) log(1 + u) - u from -1 on, by its series near 0."""
    small = jnp.abs(u) < _SMALL
    near = jnp.where(small, u, 0)
    series = jnp.zeros_like(near)
    for power in range(_TERMS, 1, -1):
        series = (-1) ** power / (power * (power - 1)) + near * series
    some = (u > -1) & ~small
    far = jnp.where(some, u, 1)
    direct = jnp.where(some, (1 + far) * jnp.log1p(far), 0) - u
    return jnp.where(small, jnp.square(near) * series, direct)


@jax.custom_jvp
def _largest_accuracy(information: jax.Array, chance: jax.Array) -> jax.Array:
    excess = _largest_excess(information, chance)
    certain = information >= -jnp.log(chance)
    accuracy = jnp.where(certain, 1, jnp.minimum(chance + excess, 1))
    return jnp.where(jnp.isnan(information), jnp.nan, accuracy)


def _largest_excess(information: jax.Array, chance: jax.Array) -> jax.Array:
    """The t >= 0 with d(p + t || p) = I; 0 where the information is not positive."""

    def halve(
        _: int, interval: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = interval
        middle = (low + high) / 2
        below = _divergence(middle, chance) <= information
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    positive = jnp.where(information > 0, information, 0)
    # 2 t^2 (Pinsker) and t^2 / (p (1 - p)) (the chi-squared distance) hold the
    # divergence between them, so that little information has all its digits.
    low = jnp.sqrt(positive) * jnp.sqrt(chance * (1 - chance))
    high = jnp.minimum(jnp.sqrt(positive / 2), 1 - chance)
    # Each step gives one binary digit.
    steps = jnp.finfo(information.dtype).nmant + 6
    low, high = lax.fori_loop(0, steps, halve, (jnp.minimum(low, high), high))
    return (low + high) / 2


@_largest_accuracy.defjvp
def _largest_accuracy_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    information, chance = primals
    accuracy = _largest_accuracy(information, chance)
    excess = _largest_excess(information, chance)
    inside = (excess > 0) & (accuracy < 1)
    t, p = jnp.where(inside, excess, 0.25), jnp.where(inside, chance, 0.5)
    slope = jnp.log1p(t / p) - jnp.log1p(-t / (1 - p))
    to_chance = t / (p * (1 - p)) / slope
    from_information = jnp.where(inside, 1 / slope, 0)
    # At 0 nats the accuracy is chance itself; from log K on it is 1.
    from_chance = jnp.where(inside, to_chance, accuracy <= chance)
    from_information, from_chance = (
        jnp.where(jnp.isnan(accuracy), jnp.nan, part)
        for part in (from_information, from_chance)
    )
    return accuracy, from_information * tangents[0] + from_chance * tangents[1]
