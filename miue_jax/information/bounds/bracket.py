"""Two cross-entropies and a covariance bracket the mutual information (T1)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from miue_jax.information.bounds.empirical_bernstein import empirical_bernstein_radius
from miue_jax.information.checks import check_labels, check_samples, is_traced


class CrossEntropy(NamedTuple):
    """Cross-entropy of a classifier on samples it was not fitted to.

    Attributes:
      mean: () nats.
      standard_error: () nats.
      limit: () nats, what the population value stays below with stated confidence.
    """

    mean: jax.Array
    standard_error: jax.Array
    limit: jax.Array


class Bracket(NamedTuple):
    """Bounds of I(Zc; Z~p).

    Attributes:
      lower: () nats, H(Y) - CE_c - CE_p.
      upper: () nats, H(Y) + W.
      lower_limit: () nats, the lower bound less the uncertainty of the cross-entropies.
      upper_limit: () nats, H(Y) plus a certified bound of the information within
        classes; infinite where none was given.
      standard_error: () nats, of the lower bound.
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

    The loss of a classifier like any other, so every statement about cross-entropies
    holds for it, and its bound makes their confidence limits certified.

    Args:
      logits: (N, K).
      labels: (N,) integers in [0, K).
      floor: f, in (0, 1].

    Returns:
      (N,) nats.

    Raises:
      ValueError: for bad shapes or values.
    """
    logits = check_samples("logits", logits, minimum=1)
    classes = logits.shape[1]
    labels = check_labels(labels, len(logits), num_classes=classes)
    if not is_traced(floor) and not 0 < floor <= 1:
        raise ValueError(f"floor is {floor}; it must be in (0, 1]")
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -jnp.log((1 - floor) * jnp.exp(picked[:, 0]) + floor / classes)


def held_out_cross_entropy(
    losses: ArrayLike,
    *,
    confidence: float = 0.95,
    largest_loss: float | None = None,
) -> CrossEntropy:
    """Mean of held-out losses with an upper confidence limit.

    With a bound on the loss the limit is certified, by the empirical Bernstein
    inequality, for every sample size and law. Without one it is the mean plus a
    normal quantile of standard errors, which is right for large samples only. Assumed
    is that samples are independent and that none was used to fit the classifier.

    Args:
      losses: (N,) nats, >= 0, one for each sample.
      confidence: in (0, 1), one-sided.
      largest_loss: nats that no loss can exceed: log(K / floor) with
        `floored_cross_entropy`.

    Returns:
      The cross-entropy, an upper bound of H(Y | Z) in expectation (Gibbs).

    Raises:
      ValueError: for fewer than two losses, losses out of range, or a confidence
        outside of (0, 1).

    References:
      docs/theory.md, T1 and T13; Maurer and Pontil, Empirical Bernstein Bounds and
      Sample Variance Penalization, COLT 2009.
    """
    losses = check_samples("losses", losses)
    if losses.shape[1] != 1:
        raise ValueError(f"losses have shape {losses.shape}; they must be (N,)")
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
    r"""Bracket of I(Zc; Z~p) that needs no estimator of mutual information.

    .. math:: H(Y) - CE_c - CE_p \le I(Z_c; \tilde Z_p) \le H(Y) + W

    CE_c is the cross-entropy of any classifier that predicts Y from Zc, CE_p of any
    that predicts it from Z~p: better classifiers give a tighter bracket, bad ones a
    valid one. The lower side holds for Zp in place of Z~p too, with its classifier; the
    upper side needs the noise. The bracket closes on I(Zc; Y) as both cross-entropies
    and W vanish. Where the label tells little, the upper side is improved by an upper
    bound of I(Y; Z~p) in place of the entropy, or by 1/2 log det(I + Sigma_T/sigma^2)
    alone (`within_class_logdet` of one class): take the smallest.

    The limits hold together with confidence one less the sum of what the two
    cross-entropies and the limit within classes may miss.

    Args:
      entropy: H(Y) in nats, known: log K for balanced classes. See `label_entropy`.
      clean: cross-entropy on clean features.
      poison: cross-entropy on poisoned features, noisy if Z~p is meant. From means and
        standard errors alone, make it as
        ``CrossEntropy(mean, standard_error, mean + 1.96 * standard_error)``.
      within_class: W in nats, or another upper bound of I(Zp; Z~p | Y).
      within_class_limit: such a bound in nats that is certified (`certified_bounds`).

    Returns:
      The bracket. Its lower side may be negative. Its standard error takes the two
      cross-entropies in the worst case, as fully correlated: they share images.

    Raises:
      ValueError: for an entropy or bound that is negative or NaN.

    References:
      docs/theory.md, T1 and T2.
    """
    for name, value in (
        ("entropy", entropy),
        ("within_class", within_class),
        ("within_class_limit", within_class_limit),
        ("clean", clean.mean),
        ("poison", poison.mean),
    ):
        if not is_traced(value) and not bool(jnp.all(jnp.asarray(value) >= 0)):
            raise ValueError(f"{name} is {value}; it must be >= 0")
    entropy = jnp.asarray(entropy)
    return Bracket(
        lower=entropy - clean.mean - poison.mean,
        upper=entropy + within_class,
        lower_limit=entropy - clean.limit - poison.limit,
        upper_limit=entropy + within_class_limit,
        standard_error=jnp.asarray(clean.standard_error + poison.standard_error),
    )
