"""How far statements are from being violated, and which of them hold."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

# What double precision loses in sums of some hundred terms.
ROUNDING = 1e-9
# Allowed deviation of a Monte-Carlo mean, in standard errors.
ERRORS = 5.0


class Slack(NamedTuple):
    """By how much a claim holds in each instance.

    Attributes:
      value: any shape; at least 0 where the claim holds exactly: the right side of an
        inequality less its left side, or an equality's error with a minus.
      tolerance: broadcast with the value: what rounding, quadrature or Monte-Carlo
        error excuse.
    """

    value: ArrayLike
    tolerance: ArrayLike = ROUNDING


class Check(NamedTuple):
    """A statement's checker.

    Attributes:
      statement: such as "T1".
      slacks: ``slacks(key, count)``: the slack of each claim.
      count: random instances of a full run.
      quick: random instances of a quick one.
    """

    statement: str
    slacks: Callable[[jax.Array, int], dict[str, Slack]]
    count: int
    quick: int


class Result(NamedTuple):
    """A claim's outcome.

    Attributes:
      statement: such as "T1".
      claim: in a few words.
      instances: number of instances.
      slack: the worst: least of slack and tolerance together.
      tolerance: of that instance.
      passed: whether no instance is violated by more than its tolerance.
    """

    statement: str
    claim: str
    instances: int
    slack: float
    tolerance: float
    passed: bool


def judge(statement: str, claim: str, slack: Slack) -> Result:
    """Finds the worst instance; NaN fails.

    Args:
      statement: such as "T1".
      claim: in a few words.
      slack: of every instance.

    Returns:
      The outcome.
    """
    value, tolerance = np.broadcast_arrays(
        np.asarray(slack.value, np.float64), np.asarray(slack.tolerance, np.float64)
    )
    value, tolerance = value.ravel(), tolerance.ravel()
    margin = np.where(np.isnan(value), -np.inf, value + tolerance)
    worst = int(np.argmin(margin))
    return Result(
        statement=statement,
        claim=claim,
        instances=value.size,
        slack=float(np.nan_to_num(value[worst], nan=-np.inf)),
        tolerance=float(tolerance[worst]),
        passed=bool(margin[worst] >= 0),
    )


def equal(left: ArrayLike, right: ArrayLike, tolerance: ArrayLike = ROUNDING) -> Slack:
    """The slack of an equality."""
    return Slack(-np.abs(np.asarray(left) - np.asarray(right)), tolerance)


def ordered(
    lower: ArrayLike, upper: ArrayLike, tolerance: ArrayLike = ROUNDING
) -> Slack:
    """The slack of ``lower <= upper``."""
    return Slack(np.asarray(upper) - np.asarray(lower), tolerance)


def generator(key: jax.Array) -> np.random.Generator:
    """NumPy's random numbers, seeded by a key, for checks that need no compiler."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
