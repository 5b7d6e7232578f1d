"""Warnings about pairs that no nearest-neighbor estimate can measure.

The information of a continuous variable with a function of itself is infinite, whatever
a finite sample gives: at most log N less a constant. And a discrete argument, such as a
label, has no density, which the estimators of `ksg` assume.
"""

import warnings
from typing import NamedTuple

import numpy as np

# Samples that are looked at, and of those the ones whose neighbors are found.
_SAMPLES, _QUERIES = 2048, 256


class FunctionalRelationWarning(UserWarning):
    """One variable looks like a function of the other: infinite information.

    Example:
      >>> import warnings
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x = np.random.default_rng(0).standard_normal(200)
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     estimate = estimators.ksg(x, np.exp(x))
      >>> caught[0].category.__name__
      'FunctionalRelationWarning'
    """


class DiscreteSamplesWarning(UserWarning):
    """An estimator of continuous variables was given a discrete one.

    Example:
      >>> import warnings
      >>> import numpy as np
      >>> from miue_jax.information import estimators
      >>> x = np.random.default_rng(0).standard_normal(200)
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     estimate = estimators.ksg(x, x > 0)
      >>> caught[0].category.__name__
      'DiscreteSamplesWarning'
    """


def warn_of_discrete(x: np.ndarray, y: np.ndarray, *, stacklevel: int) -> bool:
    """Warns if one of two samples is discrete and the other is not.

    Args:
      x: (N, dx), known.
      y: (N, dy), known.
      stacklevel: as in `warnings.warn`, from the caller.

    Returns:
      Whether one is discrete, so that nothing is to be said about functions.
    """
    found = {"x": _discreteness(x), "y": _discreteness(y)}
    discrete = {name: kind for name, kind in found.items() if kind is not None}
    if not discrete or (len(discrete) == 2 and all(k.few for k in discrete.values())):
        # Points that two variables share are counted as what they are.
        return bool(discrete)
    name = max(discrete, key=lambda each: discrete[each].few)
    warnings.warn(
        f"{name} is discrete (no column takes more than {discrete[name].values} "
        f"values), but densities are assumed: pass {name} as the labels of `ross`, or "
        "break its ties with `jitter_key`",
        DiscreteSamplesWarning,
        stacklevel=stacklevel + 1,
    )
    return True


def warn_of_function(x: np.ndarray, y: np.ndarray, *, stacklevel: int) -> None:
    """Warns if, as far as the samples tell, one variable is a function of the other.

    Found are linear relations, also between some of the columns, monotone ones of
    columns, and smooth ones in few dimensions.

    Args:
      x: (N, dx), known and continuous.
      y: (N, dy), likewise.
      stacklevel: as in `warnings.warn`, from the caller.
    """
    if len(x) > _SAMPLES:
        kept = np.random.default_rng(0).choice(len(x), _SAMPLES, replace=False)
        x, y = x[kept], y[kept]
    with np.errstate(all="ignore"):
        x, y = _standardized(x), _standardized(y)
        related = (
            _share_column(x, y)
            or _share_column(_ranks(x), _ranks(y))
            or _share_direction(x, y)
            or _neighbors_agree(x, y)
        )
    if related:
        warnings.warn(
            "as far as the samples tell, x and y are functions of each other, at least "
            "in part: their information is infinite, or more than so few samples can "
            "show, and the estimate mainly says how many there are",
            FunctionalRelationWarning,
            stacklevel=stacklevel + 1,
        )


class _Discrete(NamedTuple):
    values: int  # the most that a column takes
    few: bool  # whether so few samples differ that they may be labels


def _discreteness(samples: np.ndarray) -> _Discrete | None:
    limit = len(samples) ** 0.5
    most = 0
    for column in samples.T:
        most = max(most, len(np.unique(column)))
        if most > limit:
            return None
    if most < 2:
        return None  # constant: exactly 0 nats
    few = len(np.unique(samples, axis=0)) <= limit
    return _Discrete(most, few) if few or most <= 10 else None


def _standardized(samples: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and deviation 1, in float64; constant ones are left out."""
    values = samples.astype(np.float64)
    values = values[:, values.max(axis=0) > values.min(axis=0)]
    values = values - values.mean(axis=0)
    values = values / np.abs(values).max(axis=0, initial=1e-300)
    return values / values.std(axis=0)


def _ranks(samples: np.ndarray) -> np.ndarray:
    ranks = [np.unique(column, return_inverse=True)[1] for column in samples.T]
    return _standardized(np.stack(ranks, axis=1)) if ranks else samples


def _share_column(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a column of x is one of y, but for its sign."""
    if not x.size or not y.size:
        return False
    products = x.T @ y / len(x)
    i, j = np.unravel_index(np.argmax(np.abs(products)), products.shape)
    remainder = np.std(x[:, i] - np.sign(products[i, j]) * y[:, j])
    return _is_resolved(x[:, i], remainder)


def _share_direction(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether a combination of the columns of x is one of the columns of y."""
    size = len(x)
    if not x.size or not y.size or size < 1.5 * (x.shape[1] + y.shape[1]):
        return False
    bases = [_basis(z) for z in (x, y)]
    left, cosines, _ = np.linalg.svd(bases[0].T @ bases[1])
    if cosines[0] < 0.99:
        return False
    shared = size**0.5 * bases[0] @ left[:, 0]
    return _is_resolved(shared, np.std(shared - bases[1] @ (bases[1].T @ shared)))


def _is_resolved(values: np.ndarray, remainder: float) -> bool:
    """Whether what a relation leaves over is small beside the gaps between values.

    That of two noisy variables is not, nor that of classes, whose values lie closer
    than what they leave over.
    """
    # Values that differ by rounding are one: of zeros that are many, for example.
    distinct = np.unique(np.round(values * 1e10))
    if len(distinct) < max(8, len(values) ** 0.5):
        return False
    return bool(remainder < 0.1 * np.median(np.diff(distinct)) / 1e10)


def _basis(samples: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the columns, up to rounding of float32."""
    variances, axes = np.linalg.eigh(samples.T @ samples)
    kept = variances > 1e-11 * variances[-1]
    basis = samples @ (axes[:, kept] / np.sqrt(variances[kept]))
    return np.linalg.qr(basis)[0]


def _neighbors_agree(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether y follows x from neighbor to neighbor as a smooth function, or x y."""
    size = len(x)
    allowed = min(4, size // 100)
    if not x.size or not y.size or not allowed:
        return False
    rows = np.random.default_rng(1).permutation(size)[:_QUERIES]
    of_x, of_y = (_distances(z, rows) for z in (x, y))
    return _follows(of_x, of_y, allowed) or _follows(of_y, of_x, allowed)


def _follows(near: np.ndarray, far: np.ndarray, allowed: int) -> bool:
    # A sample that coincides says nothing: take the nearest of the others.
    near = np.where(near > 0, near, np.inf)
    first, third = np.argpartition(near, (0, 2), axis=1)[:, [0, 2]].T
    every = np.arange(len(near))
    steps = [np.sqrt(z[every, first] / z[every, third]) for z in (near, far)]
    counts = np.sum(far <= far[every, first][:, None], axis=1) - 1  # without itself
    # Half of a function may be constant, where there are no steps.
    known = np.isfinite(near[every, third]) & (far[every, third] > 0)
    if known.sum() < len(near) / 4:
        return False
    shares = [np.median(step[known]) for step in steps]
    # The nearest is among the nearest in the other space, and is nearer than the third
    # there too, which noise is not; but not by much, as in classes of two or three.
    few = np.median(counts[known]) <= allowed
    return bool(few and shares[0] > 0.1 and shares[1] < 0.6)


def _distances(samples: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squared distances (Q, N), 0 where they are below rounding."""
    squares = np.sum(np.square(samples), axis=1)
    total = squares[rows][:, None] + squares
    distances = total - 2 * samples[rows] @ samples.T
    return np.where(distances > 1e-14 * total, distances, 0)
