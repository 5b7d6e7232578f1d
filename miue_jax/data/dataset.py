"""Data sets of 8-bit images with labels."""

import hashlib
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from miue_jax._checks import check_number, unknown
from miue_jax._rows import RandomRows, Rows, blocks


class Dataset(NamedTuple):
    """Images of one size with their labels.

    Attributes:
      images: (N, H, W, C) uint8, with C = 1 or 3: an array, or rows that are read when
        they are needed, of which slices are arrays.
      labels: (N,) int32, indices into `class_names`.
      class_names: one name per class.

    Example:
      >>> import numpy as np
      >>> from miue_jax import data
      >>> images = np.zeros((4, 8, 8, 3), np.uint8)
      >>> labels = np.array([0, 1, 0, 1], np.int32)
      >>> tiny = data.Dataset(images, labels, ("cat", "dog"))
      >>> tiny.class_names[tiny.labels[1]]
      'dog'
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


class NamedDataset(Dataset):
    """A data set that knows the files it was read from, see `with_names`.

    Attributes:
      names: one path per image, below the folder of the class folders.

    Example:
      >>> from miue_jax.data import dataset
      >>> issubclass(dataset.NamedDataset, dataset.Dataset)
      True
    """

    # Not a field: what unpacks a data set finds three.
    names: tuple[str, ...] = ()


def with_names(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Returns a data set that knows the files it was read from.

    Args:
      dataset: the data set.
      names: one path per image, below the folder of the class folders.

    Returns:
      The same images and labels.

    Example:
      >>> from miue_jax.data import dataset, shapes
      >>> named = dataset.with_names(shapes.generate(2), ("cat/tom.png", "dog/rex.png"))
      >>> dataset.file_names(named)[1]
      'dog/rex.png'
    """
    named = NamedDataset(*dataset)
    named.names = tuple(names)
    return named


def file_names(dataset: Dataset) -> tuple[str, ...]:
    """Returns the files that a data set was read from.

    Args:
      dataset: the data set.

    Returns:
      One path per image, or nothing if they have none.

    Example:
      >>> from miue_jax.data import dataset, shapes
      >>> dataset.file_names(shapes.generate(2))
      ()
    """
    names = dataset.names if isinstance(dataset, NamedDataset) else ()
    return names if len(names) == len(dataset.labels) else ()


def of_rows(images: Rows, labels: np.ndarray, class_names: Sequence[str]) -> Dataset:
    """Makes a data set of images that are read when they are needed.

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) int32.
      class_names: one name per class.

    Returns:
      The data set, not validated.

    Example:
      >>> import numpy as np
      >>> from miue_jax._rows import of_array
      >>> from miue_jax.data import dataset, shapes
      >>> made = shapes.generate(4)
      >>> rows = of_array(made.images)
      >>> dataset.of_rows(rows, made.labels, made.class_names).images[1:3].shape
      (2, 32, 32, 3)
    """
    return Dataset(cast("Any", images), labels, tuple(class_names))


def validate(dataset: Dataset) -> Dataset:
    """Checks shapes, dtypes and the range of the labels.

    Args:
      dataset: the data set.

    Returns:
      The same data set.

    Raises:
      ValueError: at the first fault, naming the first offending index.

    Example:
      >>> from miue_jax import data
      >>> from miue_jax.data import shapes
      >>> clean = shapes.generate(20)
      >>> data.validate(clean) is clean
      True
    """
    images, labels, class_names = dataset
    known = isinstance(images, np.ndarray | Rows) and isinstance(labels, np.ndarray)
    if not known:
        raise ValueError(
            "images and labels must be NumPy arrays, got "
            f"{type(images).__name__} and {type(labels).__name__}"
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images must have shape (N, H, W, 1 or 3), got {images.shape}"
        )
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    if images.size == 0:
        raise ValueError(f"there are no images: their shape is {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must have shape {images.shape[:1]}, one per image, "
            f"got {labels.shape}"
        )
    if labels.dtype != np.int32:
        raise ValueError(f"labels must be int32, got {labels.dtype}")
    if not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"class names must be strings, got {tuple(class_names)}")
    if len(class_names) < 2:
        raise ValueError(
            f"at least two classes are needed, got {len(class_names)}: "
            f"{tuple(class_names)}"
        )
    if len(set(class_names)) < len(class_names):
        raise ValueError(f"class names must differ, got {tuple(class_names)}")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if wrong.size:
        raise ValueError(
            f"labels must lie in [0, {len(class_names) - 1}], got "
            f"{labels[wrong[0]]} at index {wrong[0]} ({wrong.size} labels out of range)"
        )
    return dataset


def subset(dataset: Dataset, *, per_class: int, seed: int = 0) -> Dataset:
    """Draws the same number of images from every class, without replacement.

    The images keep their order. For one seed a smaller subset is contained in a larger
    one.

    Args:
      dataset: the data set to draw from.
      per_class: images per class, at least 1.
      seed: a non-negative integer; each class has its own stream.

    Returns:
      A data set of ``per_class * len(class_names)`` images.

    Raises:
      ValueError: if a class has fewer images, or `per_class` or `seed` is out of range.

    Example:
      >>> from miue_jax import data
      >>> from miue_jax.data import shapes
      >>> data.subset(shapes.generate(50), per_class=2).images.shape
      (20, 32, 32, 3)
    """
    check_number("per_class", per_class, "> 0", whole=True)
    check_number("seed", seed, ">= 0", whole=True)
    chosen = []
    for label, name in enumerate(dataset.class_names):
        members = np.flatnonzero(dataset.labels == label)
        if members.size < per_class:
            raise ValueError(
                f"class {name!r} has {members.size} images, per_class asks for "
                f"{per_class}"
            )
        order = np.random.default_rng([seed, label]).permutation(members.size)
        chosen.append(members[order[:per_class]])
    index = np.sort(np.concatenate(chosen))
    images: Any = dataset.images
    if isinstance(images, RandomRows):
        part = of_rows(images.chosen(index), dataset.labels[index], dataset.class_names)
    else:
        part = Dataset(images[index], dataset.labels[index], dataset.class_names)
    if names := file_names(dataset):
        return with_names(part, [names[i] for i in index])
    return part


def fingerprint(
    dataset: Dataset, *, each: Callable[[int, np.ndarray], None] | None = None
) -> str:
    """Hashes the shape, images and labels, in order, but not the class names.

    Args:
      dataset: the data set.
      each: called with the number of the first image of a block, and its images, as
        they are read; None for nothing.

    Returns:
      64 hexadecimal digits (SHA-256), the same on every machine.

    Example:
      >>> from miue_jax import data
      >>> from miue_jax.data import shapes
      >>> len(data.fingerprint(shapes.generate(20)))
      64
    """
    digest = hashlib.sha256(repr(tuple(map(int, dataset.images.shape))).encode())
    for block in blocks(dataset.images.shape):
        images = dataset.images[block]
        digest.update(np.ascontiguousarray(images, dtype=np.uint8).data)
        if each is not None:
            each(block.start, images)
    digest.update(np.ascontiguousarray(dataset.labels, dtype="<i4").data)
    return digest.hexdigest()


def class_indices(
    class_names: Sequence[str], classes: Sequence[str | int]
) -> tuple[int, ...]:
    """Looks up classes by name or number.

    Args:
      class_names: one name per class.
      classes: names and numbers; a string of digits that is not a name is a number.

    Returns:
      The numbers of the classes.

    Raises:
      ValueError: for an unknown name (with the nearest ones) or number.

    Example:
      >>> from miue_jax import data
      >>> data.class_indices(("cat", "dog"), ["dog", 0])
      (1, 0)
    """
    found = []
    for given in classes:
        if isinstance(given, str) and given in class_names:
            found.append(list(class_names).index(given))
            continue
        number = given
        if isinstance(given, str):
            if not given.isdecimal():
                raise unknown("class", given, class_names)
            number = int(given)
        whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
        if not whole or not 0 <= number < len(class_names):
            raise ValueError(
                f"class {given!r} is not in the data; allowed: 0 to "
                f"{len(class_names) - 1}, or a name: {', '.join(class_names)}"
            )
        found.append(int(number))
    return tuple(found)
