"""Directions within classes, fitted on some images and applied to others."""

from typing import Literal

import numpy as np

# Canonical directions of more principal components would fit the sample, not the law.
_BEFORE_CCA = 4


def project(
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray,
    *,
    kind: Literal["pca", "cca"],
    components: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Projects paired features on directions of their variation within classes.

    What was fitted on other images is a fixed map for these, so what the projections
    tell about each other is at most what the features do (data processing).

    Args:
      x: (N, dx).
      y: (N, dy).
      labels: (N,) integers.
      fitted: (N,) bool, the images that give the directions.
      kind: principal directions, of x and y each by itself, or canonical directions of
        four times as many principal ones.
      components: most directions of each.

    Returns:
      (M, k) float64 each, of the images that are not `fitted`.
    """
    sides = [np.asarray(z, np.float64) for z in (x, y)]
    centered = [_center(z[fitted], labels[fitted]) for z in sides]
    keep = components if kind == "pca" else _BEFORE_CCA * components
    frames = [_principal(z, keep) for z in centered]
    if kind == "cca":
        # To unit variance: canonical directions then are singular ones.
        frames = [
            frame / np.maximum((z @ frame).std(axis=0), np.finfo(float).tiny)
            for z, frame in zip(centered, frames, strict=True)
        ]
        whitened = [z @ frame for z, frame in zip(centered, frames, strict=True)]
        left, _, right = np.linalg.svd(whitened[0].T @ whitened[1])
        frames[0] = frames[0] @ left[:, :components]
        frames[1] = frames[1] @ right[:components].T
    first, second = (
        (z[~fitted] - z[fitted].mean(axis=0)) @ frame
        for z, frame in zip(sides, frames, strict=True)
    )
    return first, second


def _center(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    centered = samples.copy()
    for label in np.unique(labels):
        centered[labels == label] -= samples[labels == label].mean(axis=0)
    return centered


def _principal(centered: np.ndarray, most: int) -> np.ndarray:
    """The leading directions whose variance is no rounding error; at least one."""
    variances, axes = np.linalg.eigh(centered.T @ centered)
    # The features came in float32.
    floor = len(variances) * np.finfo(np.float32).eps ** 2 * variances[-1]
    kept = max(1, min(most, int(np.sum(variances > floor))))
    return axes[:, ::-1][:, :kept]
