"""Nearest neighbors on the host by brute force: nothing is compiled.

The counts are those of `neighbors` and `neighbor_tree`. Squared distances come from one
product of matrices in float64, a few rows at a time. Where rounding might decide about
the neighbors of a sample, as in classes that have collapsed, samples are taken relative
to origins spread over the data, and where that is not enough, by differences.
"""

from collections.abc import Callable

import numpy as np

from miue_jax.information.estimators.neighbor_tree import Counts, Limits
from miue_jax.information.estimators.neighbors import DIRECT

# Values of a chunk of rows: a few such arrays fit into the cache of a processor.
_VALUES = 2**17
# Of the squared distance to the nearest neighbor, over the squared norm of a sample:
# what the rounding of a product leaves is then some 1e-7 of it.
_CERTAIN = 1e-7
_ORIGINS = 32


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
    wide = max(z.shape[1] for z in spaces) > DIRECT
    limits = Limits(held, dtype, wide=wide)
    measured = [Distances(z) for z in spaces]
    size = len(spaces[0])
    radius, within = np.empty(size), np.empty(size, int)
    near, tied = np.empty((2, size), int), np.empty(size, bool)

    def joint(each: list[np.ndarray]) -> np.ndarray:
        return np.maximum(*each)

    for rows in chunks(size):
        each = resolved(measured, rows, joint)
        both = joint(each)
        closest = np.partition(both, k - 1, axis=1)[:, :k]
        far = np.sqrt(closest[:, k - 1])
        coincide = far <= limits.zero
        zero = np.full(int(coincide.sum()), limits.zero)
        tied[rows] = np.sqrt(closest.min(axis=1)) <= limits.zero
        within[rows] = up_to(both, limits.above(far)) if held else k
        for side, squared in zip(near, each, strict=True):
            if variant == 1:
                side[rows] = strictly_nearer(squared, far, limits)
            else:
                inside = both <= np.square(limits.above(far))[:, None]
                reach = np.sqrt(np.max(np.where(inside, squared, 0), axis=1))
                side[rows] = up_to(squared, limits.above(reach))
            side[rows][coincide] = 1 + up_to(squared[coincide], zero)
        within[rows][coincide] = 1 + up_to(both[coincide], zero)
        radius[rows] = np.where(coincide, 0, far)
    return Counts(radius, within, tuple(near), tied)


def within_classes(
    samples: np.ndarray, labels: np.ndarray, k: int, *, held: bool, dtype: np.dtype
) -> Counts:
    """Counts for Ross's estimator: neighbors within classes, and all that are nearer.

    Args:
      samples: (N, D) values of `dtype` of magnitude up to 1.
      labels: (N,) integers, each class larger than k.
      k: of the neighbor in the class of a sample.
      held: whether the samples hold ties.
      dtype: whose rounding decides what is tied.

    Returns:
      The counts; `near` of one space.
    """
    limits = Limits(held, dtype, wide=samples.shape[1] > DIRECT)
    measured = [Distances(samples)]
    size = len(samples)
    radius, within = np.empty(size), np.empty(size, int)
    near, tied = np.empty(size, int), np.empty(size, bool)
    for rows in chunks(size):
        (squared,) = resolved(measured, rows, lambda each: each[0])
        own = np.where(labels[rows, None] == labels, squared, np.inf)
        far = np.sqrt(np.partition(own, k - 1, axis=1)[:, k - 1])
        zero = np.full(len(far), limits.zero)
        counted = up_to(own, limits.above(far)) if held else k
        nearer = strictly_nearer(squared, far, limits)
        coincide = far <= limits.zero
        within[rows] = np.where(coincide, 1 + up_to(own, zero), counted)
        near[rows] = np.where(coincide, 1 + up_to(squared, zero), nearer)
        tied[rows] = np.sqrt(squared.min(axis=1)) <= limits.zero
        radius[rows] = np.where(coincide, 0, far)
    return Counts(radius, within, (near,), tied)


def chunks(size: int) -> list[slice]:
    """Rows that are measured from together.

    Args:
      size: N.

    Returns:
      Slices of them.
    """
    step = max(1, _VALUES // size)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def up_to(squared: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Counts squared distances (C, M) up to radii (C,); a negative one holds none."""
    limit = np.where(radius < 0, -1, np.square(radius))
    return np.count_nonzero(squared <= limit[:, None], axis=1)


def strictly_nearer(
    squared: np.ndarray, radius: np.ndarray, limits: Limits
) -> np.ndarray:
    """The counts of `neighbors.Ties.near`.

    Args:
      squared: (C, M) squared distances to others.
      radius: (C,) distances to the k-th neighbors.
      limits: what is tied with them.

    Returns:
      (C,) int.
    """
    nearer = 1 + up_to(squared, limits.below(radius))
    if not limits.held:
        return nearer
    return np.maximum(up_to(squared, limits.above(radius)), nearer)


class Distances:
    """Squared distances of samples (N, D) to all others.

    Args:
      samples: the samples.
    """

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples.astype(np.float64)
        self.origin = np.zeros(len(samples), int)
        self._relate(np.zeros((1, samples.shape[1])))

    def _relate(self, origins: np.ndarray) -> None:
        self.relative = self.samples - origins[self.origin]
        self.norms = np.einsum("nd,nd->n", self.relative, self.relative)

    def spread(self) -> None:
        """Takes samples relative to the nearest of origins far from each other."""
        origins = [np.zeros(self.samples.shape[1])]
        nearest = np.einsum("nd,nd->n", self.samples, self.samples)
        while len(origins) < min(_ORIGINS, len(self.samples)) and nearest.any():
            origin = self.samples[np.argmax(nearest)]
            apart = self.samples - origin
            squared = np.einsum("nd,nd->n", apart, apart)
            self.origin[squared < nearest] = len(origins)
            nearest = np.minimum(nearest, squared)
            origins.append(origin)
        self.global_norms = np.einsum("nd,nd->n", self.samples, self.samples)
        self._relate(np.stack(origins))

    def __call__(self, rows: slice) -> np.ndarray:
        """Measures from some samples; the distance of one to itself is infinite.

        Args:
          rows: of these.

        Returns:
          (C, N) float64 >= 0.
        """
        if not self.origin.any():
            squared = self._product(self.relative[rows], self.relative)
            squared += self.norms[rows, None]
            squared += self.norms
        else:
            squared = self._product(self.samples[rows], self.samples)
            squared += self.global_norms[rows, None]
            squared += self.global_norms
            # Those of one origin lie closer together than rounding would show.
            own = self.origin[rows]
            for origin in np.unique(own):
                here, there = own == origin, self.origin == origin
                part = self._product(self.relative[rows][here], self.relative[there])
                part += self.norms[rows][here, None]
                part += self.norms[there]
                squared[np.ix_(here, there)] = part
        np.maximum(squared, 0, out=squared)
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        return squared

    def _product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return (-2 * left) @ right.T

    def differences(self, row: int) -> np.ndarray:
        """The same from one sample, exactly: (N,)."""
        apart = self.samples - self.samples[row]
        squared = np.einsum("nd,nd->n", apart, apart)
        squared[row] = np.inf
        return squared


def resolved(
    measured: list[Distances],
    rows: slice,
    joint: Callable[[list[np.ndarray]], np.ndarray],
) -> list[np.ndarray]:
    """Squared distances in each space, of which rounding decides about none.

    Args:
      measured: the spaces; their origins are spread where that is needed.
      rows: of the samples to measure from.
      joint: of distances in each space, the one by which neighbors are found.

    Returns:
      (C, N) float64 for each space.
    """

    def unsure(each: list[np.ndarray]) -> np.ndarray:
        nearest = joint(each).min(axis=1)
        return nearest < _CERTAIN * np.max([m.norms[rows] for m in measured], axis=0)

    each = [m(rows) for m in measured]
    if unsure(each).any() and not any(m.origin.any() for m in measured):
        for m in measured:
            m.spread()
        each = [m(rows) for m in measured]
    for place in np.flatnonzero(unsure(each)):
        for squared, m in zip(each, measured, strict=True):
            squared[place] = m.differences(rows.start + int(place))
    return each
