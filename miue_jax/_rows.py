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

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        return self.read(start, max(start, stop))[::step]


@dataclasses.dataclass(frozen=True)
class RandomRows(Rows):
    """Rows that can be read in any order.

    Attributes:
      gather: reads the rows of some numbers into an array of as many.
    """

    gather: Callable[[np.ndarray, np.ndarray], None]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        dtype: np.dtype,
        gather: Callable[[np.ndarray, np.ndarray], None],
    ) -> "RandomRows":
        """Makes them of the function that gathers."""

        def read(start: int, stop: int) -> np.ndarray:
            rows = np.empty((stop - start, *shape[1:]), dtype)
            gather(np.arange(start, stop), rows)
            return rows

        return cls(tuple(map(int, shape)), np.dtype(dtype), read, gather)

    def chosen(self, numbers: np.ndarray) -> "RandomRows":
        """Some of the rows, in the order of their numbers."""
        return RandomRows.of(
            (len(numbers), *self.shape[1:]),
            self.dtype,
            lambda rows, out: self.gather(numbers[rows], out),
        )


def of_array(array: np.ndarray) -> RandomRows:
    """The rows of an array in memory."""

    def gather(numbers: np.ndarray, out: np.ndarray) -> None:
        np.take(array, numbers, axis=0, out=out, mode="clip")

    return RandomRows.of(array.shape, array.dtype, gather)


def at(array: Any, numbers: np.ndarray) -> np.ndarray:
    """Rows of some numbers."""
    if not isinstance(array, RandomRows):
        return array[numbers]
    out = np.empty((len(numbers), *array.shape[1:]), array.dtype)
    array.gather(numbers, out)
    return out


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
