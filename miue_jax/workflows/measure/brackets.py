"""Bounds on the information at a layer that need no estimator of it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax.information import bounds

# Mixed into the predictions, so that no loss exceeds log(K / floor).
FLOOR = 0.01
_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 300
_LEARNING_RATE = 0.05


def bound(
    key: jax.Array,
    clean: np.ndarray,
    protected: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray,
    *,
    num_classes: int,
    noise_variances: tuple[float, ...],
    confidence: float,
) -> dict[str, Any]:
    r"""Brackets I(Zc; Z~p) over a grid of noise variances.

    Z~p are the protected features, scaled to unit norm, in Gaussian noise. The lower
    side, H(Y) - CE_c - CE_p, is of linear classifiers fitted on one half of the images
    and judged on the other; the upper side, H(Y) + W, is of all of them. With each
    noise variance the two limits hold together with the confidence; it is shared by
    the two cross-entropies and the intra-class cosines. The lower bound without noise
    is one of I(Zc; Zp).

    Args:
      key: for the noise and the pairs of the cosine limits.
      clean: (N, D) features.
      protected: (N, D) features.
      labels: (N,) integers.
      fitted: (N,) bool, the images that classifiers are fitted on.
      num_classes: number of classes.
      noise_variances: sigma^2 on the scale of unit features.
      confidence: of the limits.

    Returns:
      `entropy` of the label; `cosine`, the mean within classes, of protected features;
      `label_information`, lower bounds of I(Y; Zc) and I(Y; Zp) with limits;
      `without_noise` the lower bound of I(Zc; Zp); `grid`, an entry for each variance.

    Raises:
      ValueError: for features that are zero, or that no precision can hold.

    References:
      docs/theory.md, T1, T2, T7 and T13.
    """
    norms = np.linalg.norm(protected, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"{np.sum(norms == 0)} protected features are zero")
    units = protected / norms
    share = (1 - confidence) / 3
    largest = math.log(num_classes / FLOOR)

    def cross_entropy(features: np.ndarray) -> bounds.CrossEntropy:
        losses = held_out_losses(features, labels, fitted, num_classes)
        return bounds.held_out_cross_entropy(
            losses, confidence=1 - share, largest_loss=largest
        )

    counts = np.bincount(labels, minlength=num_classes)
    entropy = float(bounds.label_entropy(counts / len(labels)))
    noise_key, pair_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, units.shape))
    limits = bounds.cosine_confidence(
        pair_key, units, labels, num_classes, confidence=1 - share
    )
    cosines = np.asarray(bounds.intra_class_cosine(units, labels, num_classes))
    from_clean, from_protected = cross_entropy(clean), cross_entropy(protected)
    grid = []
    for variance in noise_variances:
        within = bounds.within_class_logdet(units, labels, variance, num_classes)
        certified = bounds.certified_bounds(
            limits, noise_variance=variance, dimension=units.shape[1]
        )
        found = bounds.bracket(
            entropy,
            from_clean,
            cross_entropy(units + math.sqrt(variance) * noise),
            within,
            within_class_limit=certified.cosine,
        )
        one_class = np.zeros_like(labels)
        grid.append(
            {
                "noise_variance": variance,
                "within_classes": float(within),
                "within_classes_limit": float(certified.cosine),
                "all_classes": float(
                    bounds.within_class_logdet(units, one_class, variance, 1)
                ),
                **{name: float(value) for name, value in found._asdict().items()},
            }
        )
    return {
        "entropy": entropy,
        "confidence": confidence,
        "cosine": float(cosines @ counts / len(labels)),
        "label_information": {
            "clean": _known(entropy, from_clean),
            "protected": _known(entropy, from_protected),
        },
        "without_noise": {
            "lower": entropy - float(from_clean.mean + from_protected.mean),
            "lower_limit": entropy - float(from_clean.limit + from_protected.limit),
        },
        "grid": grid,
    }


def _known(entropy: float, found: bounds.CrossEntropy) -> dict[str, float]:
    return {
        "lower": entropy - float(found.mean),
        "lower_limit": entropy - float(found.limit),
        "standard_error": float(found.standard_error),
    }


def held_out_losses(
    features: np.ndarray, labels: np.ndarray, fitted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Cross-entropies of a linear classifier on images that it was not fitted to.

    Softmax regression on standardized features with the weight decay, of several, that
    does best on a quarter of the images for fitting.

    Args:
      features: (N, D).
      labels: (N,) integers.
      fitted: (N,) bool, the images to fit on, in random order.
      num_classes: K.

    Returns:
      (M,) nats, at most log(K / `FLOOR`): of the images that are not `fitted`.
    """
    mean, scale = features[fitted].mean(axis=0), features[fitted].std(axis=0)
    standard = (features - mean) / np.where(scale > 0, scale, 1)
    rows = np.flatnonzero(fitted)
    # Every fourth of a class, so that no class is missing.
    position = np.empty(len(rows), int)
    for label in range(num_classes):
        members = np.flatnonzero(labels[rows] == label)
        position[members] = np.arange(len(members))
    judged = position % 4 == 3
    weights = _fit(
        standard[rows[~judged]],
        labels[rows[~judged]],
        standard[rows[judged]],
        labels[rows[judged]],
        num_classes=num_classes,
    )
    logits = standard[~fitted] @ weights[:-1] + weights[-1]
    return np.asarray(
        bounds.floored_cross_entropy(logits, labels[~fitted], floor=FLOOR)
    )


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(
    x: jax.Array,
    labels: jax.Array,
    judge_x: jax.Array,
    judge_labels: jax.Array,
    *,
    num_classes: int,
) -> jax.Array:
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))

    def loss(weights: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        logits = x @ weights[:-1] + weights[-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -jnp.mean(picked)

    def fit(decay: jax.Array) -> tuple[jax.Array, jax.Array]:
        def penalized(weights: jax.Array) -> jax.Array:
            return loss(weights, x, labels) + decay * jnp.sum(weights[:-1] ** 2) / 2

        def step(_: jax.Array, carry: tuple) -> tuple:
            weights, state = carry
            updates, state = optimizer.update(jax.grad(penalized)(weights), state)
            return optax.apply_updates(weights, updates), state

        weights = jnp.zeros((x.shape[1] + 1, num_classes), x.dtype)
        start = weights, optimizer.init(weights)
        weights, _ = jax.lax.fori_loop(0, _STEPS, step, start)
        return weights, loss(weights, judge_x, judge_labels)

    weights, losses = jax.vmap(fit)(jnp.asarray(_DECAYS, x.dtype))
    return weights[jnp.argmin(losses)]
