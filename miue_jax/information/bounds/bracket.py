"""Two cross-entropies and a covariance bracket the mutual information (T1)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax._checks import check_reciprocal, shown
from miue_jax.information._core import (
    check_labels,
    check_samples,
    is_traced,
    known_samples,
)
from miue_jax.information.bounds.confidence import empirical_bernstein_radius


class CrossEntropy(NamedTuple):
    """Cross-entropy of a classifier on samples it was not fitted to.

    Attributes:
      mean: () nats.
      standard_error: () nats.
      limit: () nats, upper confidence limit of the population value.

    Example:
      >>> from miue_jax.information import bounds
      >>> mean, error = 0.2, 0.01  # from a table of results
      >>> loss = bounds.CrossEntropy(mean, error, mean + 1.96 * error)
      >>> round(loss.limit, 4)
      0.2196
    """

    mean: jax.Array
    standard_error: jax.Array
    limit: jax.Array


class Bracket(NamedTuple):
    """Bounds on I(Zc; Z~p).

    Attributes:
      lower: () nats, H(Y) - CE_c - CE_p.
      upper: () nats, H(Y) + W.
      lower_limit: () nats, the lower bound minus the uncertainty of the
        cross-entropies.
      upper_limit: () nats, H(Y) plus a certified bound on the information within
        classes; infinite if none was given.
      standard_error: () nats, of the lower bound.

    Example:
      >>> from miue_jax.information import bounds
      >>> loss = bounds.CrossEntropy(0.1, 0.01, 0.12)
      >>> found = bounds.bracket(2.3, loss, loss, 0.05)
      >>> isinstance(found, bounds.Bracket), found.upper_limit.item()
      (True, inf)
    """

    lower: jax.Array
    upper: jax.Array
    lower_limit: jax.Array
    upper_limit: jax.Array
    standard_error: jax.Array


def floored_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, floor: float = 1e-3
) -> jax.Array:
    r"""Cross-entropy of each sample, bounded by mixing with the uniform law.

    .. math:: -\log\bigl((1 - f) \operatorname{softmax}(l)_y + f / K\bigr)
              \le \log(K / f)

    This is the loss of a classifier like any other, so every statement about
    cross-entropies applies to it, and its bound makes confidence limits certified.

    Args:
      logits: (N, K).
      labels: (N,) integers in [0, K); traced labels out of range give NaN.
      floor: f, in (0, 1].

    Returns:
      (N,) nats.

    Raises:
      ValueError: for bad shapes or values.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> logits = np.array([[99.0, 0.0], [99.0, 0.0]])  # sure, right and wrong
      >>> losses = bounds.floored_cross_entropy(logits, [0, 1], floor=0.01)
      >>> [round(float(loss), 3) for loss in losses]  # the second is log(2 / 0.01)
      [0.005, 5.298]
    """
    values, dtype = known_samples("logits", logits, minimum=1)
    if isinstance(values, np.ndarray) and values.dtype != dtype:
        # Only differences matter, and rounding could take them.
        values = values - np.max(values, axis=1, keepdims=True)
        values = np.maximum(values, float(jnp.finfo(dtype).min))
    logits = jnp.asarray(values, dtype)
    classes = logits.shape[1]
    labels = check_labels(labels, len(logits), num_classes=classes)
    check_scalar("floor", floor)
    if not is_traced(floor) and not 0 < floor <= 1:
        raise ValueError(f"floor is {floor}; it must be in (0, 1]")
    if not is_traced(floor):
        check_reciprocal("floor", floor, dtype)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    losses = -jnp.log((1 - floor) * jnp.exp(picked[:, 0]) + floor / classes)
    # A negative index would count from the end.
    return jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)


def held_out_cross_entropy(
    losses: ArrayLike,
    *,
    confidence: float = 0.95,
    largest_loss: float | None = None,
) -> CrossEntropy:
    """Mean of held-out losses with an upper confidence limit.

    If the loss is bounded, the limit is certified by the empirical Bernstein inequality
    for every sample size and law. Otherwise it is the mean plus a normal quantile of
    standard errors, valid for large samples only. Assumes that samples are independent
    and that none was used to fit the classifier.

    Args:
      losses: (N,) nats, >= 0, one per sample.
      confidence: in (0, 1), one-sided.
      largest_loss: nats that no loss can exceed: log(K / floor) with
        `floored_cross_entropy`.

    Returns:
      The cross-entropy, an upper bound on H(Y | Z) in expectation (Gibbs).

    Raises:
      ValueError: for fewer than two losses, losses out of range, or a confidence
        outside of (0, 1).

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import bounds
      >>> found = bounds.held_out_cross_entropy(np.tile([0.1, 0.3], 50))
      >>> [round(float(value), 3) for value in found]  # mean, standard error, limit
      [0.2, 0.01, 0.217]

    References:
      docs/theory.md, T1 and T13; Maurer and Pontil, Empirical Bernstein Bounds and
      Sample Variance Penalization, COLT 2009.
    """
    losses = check_samples("losses", losses)
    if losses.shape[1] != 1:
        raise ValueError(f"losses have shape {losses.shape}; they must be (N,)")
    check_scalar("confidence", confidence)
    if largest_loss is not None:
        check_scalar("largest_loss", largest_loss)
    if not is_traced(confidence) and not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be in (0, 1)")
    most = math.inf if largest_loss is None else largest_loss
    if not is_traced(losses, most):
        low, high = float(jnp.min(losses)), float(jnp.max(losses))
        if low < 0 or high > most * (1 + 1e-6):
            raise ValueError(
                f"losses run from {low} to {high}; they must be in [0, {most}]"
            )
    mean, variance = jnp.mean(losses), jnp.var(losses, ddof=1)
    error = jnp.sqrt(variance / len(losses))
    if largest_loss is None:
        return CrossEntropy(mean, error, mean + ndtri(confidence) * error)
    radius = empirical_bernstein_radius(
        variance, len(losses), span=largest_loss, confidence=confidence
    )
    return CrossEntropy(mean, error, jnp.minimum(mean + radius, largest_loss))


def bracket(
    entropy: ArrayLike,
    clean: CrossEntropy,
    poison: CrossEntropy,
    within_class: ArrayLike,
    *,
    within_class_limit: ArrayLike = math.inf,
) -> Bracket:
    r"""Brackets I(Zc; Z~p) without an estimator of mutual information.

    .. math:: H(Y) - CE_c - CE_p \le I(Z_c; \tilde Z_p) \le H(Y) + W

    CE_c is the cross-entropy of any classifier that predicts Y from Zc, CE_p of any
    that predicts it from Z~p: better classifiers give a tighter bracket, bad ones a
    valid one. The lower side also holds for Zp in place of Z~p, with its classifier;
    the upper side needs the noise. The bracket closes on I(Zc; Y) as both
    cross-entropies and W vanish. Where the features reveal little about the label, the
    upper side improves with an upper bound on I(Y; Z~p) in place of the entropy, or
    with 1/2 log det(I + Sigma_T/sigma^2) alone (`within_class_logdet` of one class):
    take the smallest.

    The limits hold jointly with confidence one minus the sum of the error probabilities
    of the two cross-entropies and the limit within classes.

    Args:
      entropy: H(Y) in nats, known: log K for balanced classes. See `label_entropy`.
      clean: cross-entropy on clean features.
      poison: cross-entropy on poisoned features, noisy if Z~p is meant. From a mean and
        a standard error alone, build it as
        ``CrossEntropy(mean, standard_error, mean + 1.96 * standard_error)``.
      within_class: W in nats, or another upper bound on I(Zp; Z~p | Y).
      within_class_limit: a certified such bound in nats (`certified_bounds`).

    Returns:
      The bracket. Its lower side may be negative. Its standard error is the worst case
      for the two cross-entropies, full correlation, because they share images.

    Raises:
      ValueError: for an entropy or bound that is negative or NaN, or a cross-entropy
        with a negative standard error or a limit below its mean.

    Example:
      >>> import math
      >>> from miue_jax.information import bounds
      >>> clean = bounds.CrossEntropy(0.5, 0.01, 0.52)
      >>> poison = bounds.CrossEntropy(0.1, 0.01, 0.12)
      >>> found = bounds.bracket(math.log(10), clean, poison, within_class=0.05)
      >>> round(float(found.lower), 3), round(float(found.upper), 3)
      (1.703, 2.353)

    References:
      docs/theory.md, T1 and T2.
    """
    for name, loss in (("clean", clean), ("poison", poison)):
        if not isinstance(loss, CrossEntropy):
            raise ValueError(f"{name} is {shown(loss)}; it must be a CrossEntropy")
        for field, value in loss._asdict().items():
            check_real(f"{name}.{field}", value)
        if is_traced(*loss):
            continue
        mean, error, limit = map(np.asarray, loss)
        if not np.all((error >= 0) & (limit >= mean)):
            raise ValueError(
                f"{name} has standard error {loss.standard_error} and limit "
                f"{loss.limit}; they must be >= 0 and >= its mean {loss.mean}"
            )
    for name, value in (
        ("entropy", entropy),
        ("within_class", within_class),
        ("within_class_limit", within_class_limit),
        ("clean", clean.mean),
        ("poison", poison.mean),
    ):
        check_real(name, value)
        if not is_traced(value) and not bool(np.all(np.asarray(value) >= 0)):
            raise ValueError(f"{name} is {value}; it must be >= 0")
    entropy, within_class = jnp.asarray(entropy), jnp.asarray(within_class)
    return Bracket(
        lower=entropy - clean.mean - poison.mean,
        upper=entropy + within_class,
        lower_limit=entropy - clean.limit - poison.limit,
        upper_limit=entropy + within_class_limit,
        standard_error=jnp.asarray(clean.standard_error + poison.standard_error),
    )
