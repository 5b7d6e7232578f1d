"""The digamma function of whole and half numbers, from a table.

Estimators need it of counts only. The table is exact in float64, whatever the type of
the estimate, and costs one gather on the device.
"""

import numpy as np


def half_digamma(limit: int) -> np.ndarray:
    r"""Tabulates :math:`\psi(m / 2)`.

    By :math:`\psi(z + 1) = \psi(z) + 1/z` from :math:`\psi(1/2)` and :math:`\psi(1)`.

    Args:
      limit: largest m.

    Returns:
      (limit + 1,) float64; NaN at m = 0, where the function has a pole.
    """
    table = np.full(max(limit, 2) + 1, np.nan)
    for first, value in ((1, -np.euler_gamma - 2 * np.log(2)), (2, -np.euler_gamma)):
        steps = 2 / np.arange(first, len(table) - 2, 2)
        table[first::2] = value + np.concatenate([[0], np.cumsum(steps)])
    return table[: limit + 1]


def whole_digamma(limit: int) -> np.ndarray:
    r"""Tabulates :math:`\psi(n)`.

    Args:
      limit: largest n.

    Returns:
      (limit + 1,) float64; NaN at n = 0.
    """
    return half_digamma(2 * limit)[::2]
