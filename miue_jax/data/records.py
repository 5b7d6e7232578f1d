"""Images that are read one by one, by the threads of Grain."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from miue_jax._rows import RandomRows

INSTALL = "pip install miue_jax[stream]"


def check_installed(what: str) -> None:
    """Checks that Grain is installed.

    Args:
      what: what needs it, for the message.

    Raises:
      ValueError: if it is not.

    Example:
      >>> from miue_jax.data import records
      >>> records.check_installed("pictures")  # doctest: +SKIP
    """
    if importlib.util.find_spec("grain") is None:
        raise ValueError(f"{what} are read by Grain, which is not installed: {INSTALL}")


def rows(size: int, shape: tuple[int, ...], read: Callable[[int], Any]) -> RandomRows:
    """Returns images that are read when they are needed.

    Args:
      size: N, how many there are.
      shape: (H, W, C), of an image.
      read: its number -> (H, W, C) uint8; called by several threads.

    Returns:
      Rows (N, H, W, C) of uint8.

    Example:
      >>> import numpy as np
      >>> from miue_jax.data import records
      >>> blank = lambda number: np.full((2, 2, 3), number, np.uint8)
      >>> images = records.rows(4, (2, 2, 3), blank)  # doctest: +SKIP
      >>> images[2:4].shape  # doctest: +SKIP
      (2, 2, 2, 3)
    """

    def gather(numbers: np.ndarray, out: np.ndarray) -> None:
        for place, image in enumerate(ordered(numbers, read)):
            out[place] = image

    return RandomRows.of((size, *shape), np.dtype(np.uint8), gather)


def ordered(numbers: np.ndarray, read: Callable[[int], Any]) -> Any:
    """Reads records by threads, and yields them in order.

    Args:
      numbers: of the records.
      read: number -> the record.

    Returns:
      An iterator.
    """
    import grain

    threads = _threads()
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(2, 2 * threads)
    )
    source = grain.MapDataset.source(_Chosen(numbers, read))
    return iter(source.to_iter_dataset(options))


class _Chosen:
    """Some of the records, as Grain asks for them."""

    def __init__(self, numbers: np.ndarray, read: Callable[[int], Any]):
        self._numbers, self._read = numbers, read

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> Any:
        return self._read(int(self._numbers[place]))


def _threads() -> int:
    """The cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
