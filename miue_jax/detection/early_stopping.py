"""Early stopping: the best point of an accuracy curve."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Peak(NamedTuple):
    """The best point of an accuracy curve.

    Attributes:
      accuracy: the highest accuracy.
      epoch: the first epoch that reached it.
      final: the accuracy of the last epoch.

    Example:
      >>> from miue_jax import detection
      >>> detection.Peak(accuracy=0.5, epoch=2, final=0.1).epoch
      2
    """

    accuracy: float
    epoch: int
    final: float


def early_stopping(accuracies: Sequence[float], epochs: Sequence[int]) -> Peak:
    """Finds where someone who trains on protected data would have stopped.

    Protected data may teach something before they teach the shortcut. To stop there one
    has to know the accuracy on clean images: without a clean validation set the peak is
    out of reach, and chosen on the test set it is too high. So the curve is to be
    reported with it.

    Args:
      accuracies: on clean images, each in [0, 1]; NaN where training had diverged.
      epochs: the epochs after which they were measured, increasing.

    Returns:
      The peak.

    Raises:
      ValueError: if there are no accuracies, not as many as epochs, or none that is a
        number; if one is out of range or the epochs do not increase.

    Example:
      >>> from miue_jax import detection
      >>> detection.early_stopping([0.2, 0.5, 0.1], epochs=[1, 2, 3])
      Peak(accuracy=0.5, epoch=2, final=0.1)
    """
    values, steps = np.asarray(accuracies, float), np.asarray(epochs)
    if values.ndim != 1 or values.shape != steps.shape or not values.size:
        raise ValueError(
            "accuracies and epochs must be two lists of one length, got shapes "
            f"{values.shape} and {steps.shape}"
        )
    if np.isnan(values).all():
        raise ValueError("every accuracy is NaN: there is no peak")
    if np.any((values < 0) | (values > 1)):
        raise ValueError(f"accuracies must lie in [0, 1], got {values.tolist()}")
    if np.any(np.diff(steps) <= 0):
        raise ValueError(f"epochs must increase, got {steps.tolist()}")
    best = int(np.nanargmax(values))
    return Peak(float(values[best]), int(steps[best]), float(values[-1]))
