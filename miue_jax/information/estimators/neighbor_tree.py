r"""Nearest neighbors on the host: a k-d tree, and sorting in one dimension.

It counts what `miue_jax.information.estimators.neighbors` counts by brute force, with
the same rules for ties, from distances in float64. The distance of a pair, the larger
of two Euclidean ones, is no norm that a tree knows. So candidates come from a norm that
bounds it: the largest coordinate, or the Euclidean distance over :math:`\sqrt 2`. They
are all that matters if the farthest of them lies beyond the k-th neighbor; where it
does not, more are taken.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

# Dimensions of X and of Y up to which the largest coordinate is the closer bound.
_CUBE = 2
# Candidates of a sample beyond which it is measured from all others, so many values at
# a time.
_CANDIDATES = 256
_VALUES = 2**21


class Counts(NamedTuple):
    """The neighbors of each sample.

    Attributes:
      radius: (N,) distance to the k-th neighbor.
      within: (N,) neighbors up to there: more than k if several are as far.
      near: (N,) counts of each space, those of the digammas.
      tied: (N,) bool, whether the sample coincides with another.
    """

    radius: np.ndarray
    within: np.ndarray
    near: tuple[np.ndarray, ...]
    tied: np.ndarray


def pairs(
    spaces: list[np.ndarray], k: int, *, variant: int, held: bool, dtype: np.dtype
) -> Counts:
    """Counts for the estimator of Kraskov, Stögbauer and Grassberger.

    Args:
      spaces: X and Y, (N, D) each, values of `dtype` of magnitude up to 1.
      k: less than N.
      variant: of the estimator, 1 or 2.
      held: whether the samples hold ties.
      dtype: whose rounding decides what is tied.

    Returns:
      The counts.
    """
    spaces = [z.astype(np.float64) for z in spaces]
    limits = Limits(held, dtype)
    size = len(spaces[0])
    radius, within, nearest = np.empty(size), np.empty(size, int), np.empty(size)
    sides = np.empty((2, size))
    for rows, each in _candidates(spaces, k, limits):
        joint = np.maximum(*each)
        radius[rows] = np.partition(joint, k - 1, axis=1)[:, k - 1]
        inside = joint <= limits.above(radius[rows])[:, None]
        within[rows] = np.sum(inside, axis=1)
        nearest[rows] = np.min(joint, axis=1)
        for side, distances in zip(sides, each, strict=True):
            side[rows] = np.max(np.where(inside, distances, 0), axis=1)
    trees = [_Space(z) for z in spaces]
    if variant == 1:
        near = [_near(tree, radius, limits) for tree in trees]
    else:
        near = [
            tree.count(limits.above(side)) - 1
            for tree, side in zip(trees, sides, strict=True)
        ]
    coincide = radius <= limits.zero
    for counts, tree in zip(near, trees, strict=True):
        counts[coincide] = tree.count(np.full(size, limits.zero), coincide)
    if coincide.any():
        joint_space = [z[coincide] for z in spaces]
        within[coincide] = _multiplicity(np.concatenate(joint_space, axis=1))
    if not held:
        within[~coincide] = k
    radius[coincide] = 0
    return Counts(radius, within, tuple(near), nearest <= limits.zero)


class Limits:
    """Up to where distances are tied with a radius, see `neighbors.Ties`.

    Args:
      held: whether the samples hold ties.
      dtype: whose rounding decides.
      wide: whether there are more dimensions than those in which coordinates are tied:
        then their rounding, which may be what tells tight samples apart, does not
        count.
    """

    def __init__(self, held: bool, dtype: np.dtype, *, wide: bool = False) -> None:
        self.held = held
        self.eps = float(np.finfo(dtype).eps)
        self.absolute = 8 * self.eps if held and not wide else 0.0
        # Distances whose squares the type does not have are 0.
        self.zero = float(np.sqrt(np.finfo(dtype).tiny))

    def above(self, radius: np.ndarray) -> np.ndarray:
        """The largest distance that is tied."""
        return (radius + self.absolute) * (1 + 2 * self.eps)

    def below(self, radius: np.ndarray) -> np.ndarray:
        """The largest distance that is strictly less; negative if there is none."""
        if self.absolute:
            return np.nextafter(np.maximum(radius - self.absolute, 0), -1)
        return radius * (1 - 2 * self.eps)


def _near(space: "_Space", radius: np.ndarray, limits: Limits) -> np.ndarray:
    # Each count includes the sample itself.
    nearer = np.maximum(space.count(limits.below(radius)), 1)
    if not limits.absolute:
        return nearer
    return np.maximum(space.count(limits.above(radius)) - 1, nearer)


def _candidates(
    spaces: list[np.ndarray], k: int, limits: Limits
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Rows, and their distances in X and in Y to all others that may be neighbors.

    The distance of a sample to itself is infinite.
    """
    size = len(spaces[0])
    stacked = np.concatenate(spaces, axis=1)
    widest = max(z.shape[1] for z in spaces)
    cube = widest <= _CUBE
    norm, bound = (np.inf, 1.0) if cube else (2.0, 0.5**0.5)
    tree = KDTree(stacked)
    rows = np.arange(size)
    # With itself, and one beyond; in more dimensions twice as many lie within.
    count = k + 2 if widest == 1 else 2 * k + 6
    while len(rows) and count < min(_CANDIDATES, size):
        farthest, others = tree.query(stacked[rows], count, p=norm)
        each = _distances(spaces, rows, others)
        radius = np.partition(np.maximum(*each), k - 1, axis=1)[:, k - 1]
        # A rounding error of the tree's distances must not decide.
        done = farthest[:, -1] * bound * (1 - 1e-9) > limits.above(radius)
        done &= farthest[:, -1] > limits.zero
        yield rows[done], [d[done] for d in each]
        rows, count = rows[~done], 2 * count
    step = max(1, _VALUES // (size * stacked.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        others = np.broadcast_to(np.arange(size), (len(part), size))
        yield part, _distances(spaces, part, others)


def _distances(
    spaces: list[np.ndarray], rows: np.ndarray, others: np.ndarray
) -> list[np.ndarray]:
    itself = others == rows[:, None]
    found = []
    for z in spaces:
        columns = ((c[rows][:, None] - c[others]) ** 2 for c in z.T)
        squared = next(columns)
        for column in columns:
            squared += column
        found.append(np.where(itself, np.inf, np.sqrt(squared)))
    return found


def _multiplicity(samples: np.ndarray) -> np.ndarray:
    """How many samples equal each, itself included."""
    _, inverse, counts = np.unique(
        samples, axis=0, return_inverse=True, return_counts=True
    )
    return counts[inverse.reshape(-1)]


class _Space:
    """Samples (N, D), ready to be counted."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples
        if samples.shape[1] > 1:
            self.tree = KDTree(samples)
            return
        self.values, counts = np.unique(samples, return_counts=True)
        self.before = np.concatenate([[0], np.cumsum(counts)])

    def count(self, radius: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Samples up to a radius (N,) from each, or from the chosen ones."""
        samples = self.samples
        if chosen is not None:
            samples, radius = samples[chosen], radius[chosen]
        if samples.shape[1] > 1:
            found = self.tree.query_ball_point(
                samples, np.maximum(radius, 0), return_length=True
            )
            return np.where(radius < 0, 0, found)
        at = samples[:, 0]
        left = np.searchsorted(self.values, at - radius, "left")
        right = np.searchsorted(self.values, at + radius, "right")
        # The sums are rounded; differences decide, as they do everywhere else.
        padded = np.concatenate([[-np.inf], self.values, [np.inf]])
        while (move := at - padded[left] <= radius).any():
            left = left - move
        while (move := (at - padded[left + 1] > radius) & (radius >= 0)).any():
            left = left + move
        while (move := padded[right + 1] - at <= radius).any():
            right = right + move
        while (move := (padded[right] - at > radius) & (radius >= 0)).any():
            right = right - move
        return np.where(radius < 0, 0, self.before[right] - self.before[left])
