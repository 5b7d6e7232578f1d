"""What bounds the information at a layer without an estimator of it."""

import math
from typing import Any

import jax
import numpy as np

from miue_jax.information import bounds
from miue_jax.workflows.measure import classifier


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
    largest = math.log(num_classes / classifier.FLOOR)

    def cross_entropy(features: np.ndarray) -> bounds.CrossEntropy:
        losses = classifier.held_out_losses(features, labels, fitted, num_classes)
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
