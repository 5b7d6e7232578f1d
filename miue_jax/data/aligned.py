"""Arrays that start where a device that shares the host's memory can use them.

NumPy puts large arrays 16 bytes behind the start of a page. XLA on a CPU needs 64, and
copies what lies elsewhere.
"""

import math
from collections.abc import Sequence

import numpy as np
from jax.typing import DTypeLike

_BYTES = 64


def empty(shape: Sequence[int], dtype: DTypeLike = np.uint8) -> np.ndarray:
    """Returns an array like `numpy.empty`, aligned for XLA.

    Args:
      shape: of the array.
      dtype: of its values, which are no Python objects.

    Returns:
      The array, whose values are arbitrary.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    whole = np.empty(size + _BYTES, np.uint8)
    start = -whole.ctypes.data % _BYTES
    return whole[start : start + size].view(dtype).reshape(shape)
