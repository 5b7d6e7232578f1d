"""F1 to F6 and F8's note: the numbers that refute natural-sounding claims."""

import jax
import numpy as np
from theory.check import Slack, equal, generator, ordered

from miue_jax.information import tasks

_PRINTED = {
    "F1": {"scale-1": 0.5108, "scale-0.001": 0.5108},
    "F2": {"residual-3": 0.140, "residual-0.1": 0.896},
    "F3": {
        "spread-2": 0.110,
        "spread-1": 0.328,
        "spread-0.5": 0.610,
        "spread-0.1": 0.693,
        "spread-0": 0.693,
    },
    "F4": {"atoms-2": 0.693, "atoms-16": 2.752},
    "F5": {"reach-3": 0.689, "reach-30": 0.693, "reach-300": 0.693, "independent": 0},
    "F6": {"radii": 1.386},
}


def _values(statement: str) -> tuple[np.ndarray, Slack]:
    printed = _PRINTED[statement]
    values = np.array(
        [tasks.create(f"{statement}-{suffix}").information for suffix in printed]
    )
    return values, equal(values, list(printed.values()), 6e-4)


def scaling(key: jax.Array, count: int) -> dict[str, Slack]:
    """F1: shrinking poisoned features without noise leaves the information."""
    del key, count
    values, printed = _values("F1")
    return {"Var x 1e-6, information the same": equal(*values), "numbers": printed}


def residual(key: jax.Array, count: int) -> dict[str, Slack]:
    """F2: a smaller covariance with more information."""
    del key, count
    values, printed = _values("F2")
    return {"Cov 4 to 1.1, information up": ordered(*values), "numbers": printed}


def collapse(key: jax.Array, count: int) -> dict[str, Slack]:
    """F3: collapse within classes uncovers the label."""
    del key, count
    values, printed = _values("F3")
    return {"t 2 to 0, information up": Slack(np.diff(values)), "numbers": printed}


def atoms(key: jax.Array, count: int) -> dict[str, Slack]:
    """F4: less variance, more information."""
    del key, count
    values, printed = _values("F4")
    return {"variance 1 to 0.24, information up": ordered(*values), "numbers": printed}


def large_covariance(key: jax.Array, count: int) -> dict[str, Slack]:
    """F5: any covariance with no more than log 2, or nothing."""
    del key, count
    values, printed = _values("F5")
    return {"two atoms: at most log 2": ordered(values, np.log(2)), "numbers": printed}


def radii(key: jax.Array, count: int) -> dict[str, Slack]:
    """F6: all cosines 1, and yet the norm tells the instance."""
    del key, count
    values, printed = _values("F6")
    bound = np.log1p(np.var([1, 2, 3, 4]) / 0.01) / 2
    return {
        "cosine 1, information log 4": equal(values, np.log(4), 1e-5),
        "information <= log(1 + Var r / sigma^2) / 2": ordered(values, bound),
        "numbers": printed,
    }


def total_covariance(key: jax.Array, count: int) -> dict[str, Slack]:
    """Neither the total covariance nor log K + W is always the smaller bound."""
    draw = generator(key)
    del count
    classes, dim, noise, spread = 4, 8, 0.1, 0.06
    means = draw.standard_normal((classes, dim))
    means -= means.mean(0)
    within = np.log(classes) + dim / 2 * np.log1p(spread / noise)
    total = []
    for separation in (0.1, 10.0):
        covariance = spread * np.eye(dim) + separation**2 * means.T @ means / classes
        total.append(np.linalg.slogdet(np.eye(dim) + covariance / noise)[1] / 2)
    return {
        "close classes: total covariance is smaller": ordered(total[0], within),
        "far classes: log K + W is smaller": ordered(within, total[1]),
    }
