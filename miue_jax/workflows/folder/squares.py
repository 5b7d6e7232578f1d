"""The squares of pictures that a protector is fitted on."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from miue_jax import pictures
from miue_jax.pictures import Entry
from miue_jax.protector import full_size
from miue_jax.workflows.folder import threads

# Pictures that are read at most.
_PICTURES = 1024


class Squares(NamedTuple):
    """Squares of pictures.

    Attributes:
      images: (N, s, s, 3) uint8.
      labels: (N,) int32, -1 for pictures without a class.

    Example:
      >>> import numpy as np
      >>> from miue_jax.workflows.folder import squares
      >>> made = squares.Squares(np.zeros((1, 64, 64, 3), np.uint8), np.zeros(1, int))
      >>> len(made.images)
      1
    """

    images: np.ndarray
    labels: np.ndarray


def sample(entries: Sequence[Entry], most: int = _PICTURES) -> list[Entry]:
    """Chooses pictures evenly, from each class as many as from others.

    Args:
      entries: the pictures, sorted by name.
      most: how many at most.

    Returns:
      The chosen ones, sorted by name.

    Example:
      >>> from miue_jax.workflows.folder import squares
      >>> squares.sample([])
      []
    """
    classes: dict[int | None, list[Entry]] = {}
    for entry in entries:
        classes.setdefault(entry.label, []).append(entry)
    chosen: list[Entry] = []
    left = most
    for number, group in enumerate(sorted(classes.values(), key=len)):
        # What small classes leave is for the larger ones.
        count = min(len(group), max(1, left // (len(classes) - number)))
        places = np.linspace(0, len(group) - 1, count).round().astype(int)
        chosen += [group[place] for place in places]
        left -= count
    return sorted(chosen)


def working_size(entries: Sequence[Entry], largest: int) -> int:
    """The size at which a protector sees the pictures of a folder.

    Args:
      entries: the pictures.
      largest: the size for pictures that are large enough.

    Returns:
      Pixels of the shorter side: that of the median picture, at most `largest`, a
      multiple of 8.

    Example:
      >>> import pathlib
      >>> from miue_jax import pictures
      >>> from miue_jax.workflows.folder import squares
      >>> header = pictures.Header("PNG", 64, 48, False)
      >>> entry = pictures.Entry("a", pathlib.Path("a"), header, "a", None, ())
      >>> squares.working_size([entry], 96)
      48
    """
    shorter = [min(entry.header.width, entry.header.height) for entry in entries]
    median = int(np.median(shorter))
    return max(full_size.SMALLEST, min(median, largest) // 8 * 8)


def read(
    entries: Sequence[Entry],
    size: int,
    *,
    path_of: Callable[[Entry], os.PathLike[str]] = lambda entry: entry.path,
    per_picture: int = 2,
    skipped: Callable[[Entry, ValueError], object] | None = None,
    done: Callable[[], object] = lambda: None,
) -> Squares:
    """Reads squares of pictures, upright and small.

    Args:
      entries: the pictures.
      size: pixels of a side.
      path_of: where a picture is read from.
      per_picture: squares of each picture at most; square pictures have one.
      skipped: called with each picture that cannot be read, and why; None to raise.
      done: called after each picture.

    Returns:
      The squares, in the order of the pictures.

    Raises:
      ValueError: naming the file, if a picture cannot be read and nothing is called.

    Example:
      >>> from miue_jax.workflows.folder import squares
      >>> squares.read([], 64).images.shape
      (0, 64, 64, 3)
    """

    def one(entry: Entry) -> list[np.ndarray]:
        try:
            thumb = full_size.thumbnail(pictures.read_small(path_of(entry), size), size)
        except ValueError as error:
            if skipped is None:
                raise
            skipped(entry, error)
            return []
        square = min(thumb.shape[:2])
        count = min(per_picture, 1 + (max(thumb.shape[:2]) > 1.2 * square))
        places = [0.5] if count == 1 else np.linspace(0, 1, count)
        done()
        return [
            full_size.exactly(full_size.square(thumb, place), size) for place in places
        ]

    images, labels = [], []
    for entry, found in zip(entries, threads.ordered(one, entries), strict=True):
        images += found
        labels += [-1 if entry.label is None else entry.label] * len(found)
    stacked = np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)
    return Squares(stacked, np.array(labels, np.int32))
