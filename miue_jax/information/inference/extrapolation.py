"""Extrapolation of estimates to infinitely many samples."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from miue_jax.information.inference.parts import (
    Estimator,
    check_parts,
    estimate_on_parts,
)


class Extrapolation(NamedTuple):
    """An estimate extrapolated to infinitely many samples.

    Attributes:
      value: () float, nats, intercept of the line in 1/N.
      standard_error: () float, nats, of the value: sampling and random parts, not the
        error of the line as a model.
      slope: () float, nats times samples; the bias on N samples is slope / N.
      sizes: (F + 1,) float, samples behind each estimate, all of them first.
      means: (F + 1,) float, mean estimate at each size.
    """

    value: jax.Array
    standard_error: jax.Array
    slope: jax.Array
    sizes: jax.Array
    means: jax.Array


def extrapolate(
    key: jax.Array,
    estimator: Estimator,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_parts: Sequence[int] = (2, 3, 4),
    num_splits: int = 4,
) -> Extrapolation:
    r"""Extrapolates an estimate to infinitely many samples by a line in 1/N.

    Least squares of the mean estimate on N / f samples against f / N, all samples
    (f = 1) included. Removes a bias of order 1/N, such as that of plug-in estimates; a
    bias that falls more slowly, as that of nearest neighbors in many dimensions or at
    high information, is left in part. Neither a lower nor an upper bound.

    Args:
      key: random key of the splits.
      estimator: as for `subsample_interval`.
      x: (N, dx) or (N,) numbers.
      y: (N, dy) or (N,) numbers.
      num_parts: numbers of parts, each from 2 to N / 2 and different.
      num_splits: random splits for each number of parts, at least 2.

    Returns:
      The extrapolation.

    Raises:
      ValueError: for bad samples, parts or splits, or an estimator that does not return
        a scalar.

    References:
      Strong et al., Entropy and Information in Neural Spike Trains, 1998; Holmes and
      Nemenman 2019 (drift with the sample size).
    """
    if num_splits < 2:
        raise ValueError(f"num_splits is {num_splits}; it must be at least 2")
    x, y, parts = check_parts(estimator, x, y, num_parts, num_splits)
    return _extrapolate(
        key, x, y, estimator=estimator, parts=parts, num_splits=num_splits
    )


@functools.partial(jax.jit, static_argnames=("estimator", "parts", "num_splits"))
def _extrapolate(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    estimator: Estimator,
    parts: tuple[int, ...],
    num_splits: int,
) -> Extrapolation:
    found = estimate_on_parts(key, estimator, x, y, parts=parts, num_splits=num_splits)
    # The lines of all splits share the sampling error of the samples, whose variance
    # the parts estimate; the spread over splits is what random parts add.
    spread = jnp.var(found.intercepts, ddof=1) / num_splits
    return Extrapolation(
        value=jnp.mean(found.intercepts),
        standard_error=jnp.sqrt(found.variance + spread),
        slope=found.slope,
        sizes=found.sizes,
        means=found.means,
    )
