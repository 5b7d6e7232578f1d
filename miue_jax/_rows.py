"""Rows of arrays that are made when they are read, and the blocks to read them in."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

# Values in a block of images: bounds temporaries to some 10 MB.
_BLOCK = 1 << 19


@dataclasses.dataclass(frozen=True)
class Rows:
    """An array of which only the rows that are asked for exist.

    Attributes:
      shape: of the whole array; the first axis runs over the rows.
      dtype: of its values.
      read: rows from the first number up to the second, as an array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        return self.read(start, max(start, stop))[::step]


def as_rows(array: Any) -> "np.ndarray | Rows":
    """Returns rows as they are, anything else as a NumPy array."""
    return array if isinstance(array, Rows) else np.asarray(array)


def blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Yields slices of rows that are read together, few enough to need little memory.

    Args:
      shape: of an array.

    Yields:
      Slices that run through the rows.
    """
    size = max(1, _BLOCK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], size):
        yield slice(start, min(start + size, shape[0]))
