"""Images and labels in a NumPy `.npz` file."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from miue_jax._checks import listed
from miue_jax._rows import RandomRows
from miue_jax.data import npz
from miue_jax.data.dataset import Dataset, validate

# Names of images and labels in a file, for each split; the first pair found counts.
_KEYS = {
    "train": (
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}


def load(path: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Reads images and labels from a ``.npz`` file, without unpickling anything.

    The arrays are ``images`` and ``labels`` (read as "train"), or ``x_train``,
    ``y_train``, ``x_test``, ``y_test``, or ``train_images``, ``train_labels``,
    ``test_images``, ``test_labels``. ``class_names`` is optional; without it the
    classes are called "0", "1", ... and none may be missing.

    Args:
      path: the file. Images are (N, H, W, C) or, gray, (N, H, W): integers in [0, 255],
        or floats in [0, 1], which are rounded to 8 bits. Labels are (N,) or (N, 1)
        integers.
      split: "train" or "test".

    Returns:
      The data set.

    Raises:
      ValueError: naming the file and array, if the content is unreadable or pickled, an
        array is missing, has a wrong shape, NaN or values out of range, or a label has
        no class.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import arrays
      >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/data.npz", images=images, labels=labels)
      ...     arrays.load(f"{folder}/data.npz").images.shape
      (4, 8, 8, 1)
    """
    return _from(path, split, npz.read(path))


def stream(path: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Opens a ``.npz`` file, as `load` reads it, without reading its images.

    Args:
      path: the file. Images are (N, H, W, C) or, gray, (N, H, W) uint8, and were not
        compressed.
      split: "train" or "test".

    Returns:
      The data set, whose images are read when they are needed.

    Raises:
      ValueError: as `load`; or if the images are compressed, or not 8-bit.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import arrays
      >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/data.npz", images=images, labels=labels)
      ...     arrays.stream(f"{folder}/data.npz").images[1:3].shape
      (2, 8, 8, 1)
    """
    keys = {image for pairs in _KEYS.values() for image, _ in pairs}
    content: dict[str, Any] = dict(npz.read(path, except_for=keys))
    for key in sorted(keys & npz.names(path)):
        content[key] = npz.rows_of_member(path, key)
    return _from(path, split, content)


def _from(path: str | os.PathLike[str], split: str, content: dict[str, Any]) -> Dataset:
    try:
        pairs = [pair for pair in _KEYS[split] if set(pair) <= set(content)]
        if not pairs:
            raise ValueError(
                f"it has no {split} images and labels: it must hold "
                + " or ".join(" and ".join(pair) for pair in _KEYS[split])
                + f", it holds {listed(sorted(content)) or 'nothing'}"
            )
        image_key, label_key = pairs[0]
        if "class_names" in content:
            class_names = _to_names(content["class_names"])
        else:
            # The test labels may hold a class that the training labels lack.
            label_keys = [key for pairs in _KEYS.values() for _, key in pairs]
            every = [
                _to_int32(key, content[key]) for key in label_keys if key in content
            ]
            class_names = _count_classes(label_key, np.concatenate(every))
        images, labels = content[image_key], content[label_key]
        return dataset(
            images, labels, class_names, image_key=image_key, label_key=label_key
        )
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def dataset(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    image_key: str = "images",
    label_key: str = "labels",
) -> Dataset:
    """Converts arrays to a data set and validates it.

    Args:
      images: (N, H, W, C) or, gray, (N, H, W): integers in [0, 255], or floats in
        [0, 1], which are rounded to 8 bits.
      labels: (N,) or (N, 1) integers.
      class_names: one name per class; None to call them "0", "1", ..., none missing.
      image_key: name of the images in messages.
      label_key: name of the labels in messages.

    Returns:
      The data set.

    Raises:
      ValueError: if an array has a wrong shape, NaN or values out of range, or a label
        has no class.

    Example:
      >>> import numpy as np
      >>> from miue_jax.data import arrays
      >>> half = np.full((2, 8, 8, 3), 0.5)
      >>> int(arrays.dataset(half, np.array([0, 1])).images[0, 0, 0, 0])
      128
    """
    pixels, classes = _to_uint8(image_key, images), _to_int32(label_key, labels)
    if class_names is None:
        class_names = _count_classes(label_key, classes)
    return validate(Dataset(pixels, classes, tuple(map(str, class_names))))


def _to_names(names: np.ndarray) -> tuple[str, ...]:
    if names.dtype.kind not in "SU":
        raise ValueError(f"class_names must be strings, got {names.dtype}")
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8")
    return tuple(str(name) for name in names.ravel())


def _to_uint8(key: str, images: Any) -> Any:
    if isinstance(images, RandomRows):
        if images.dtype != np.uint8:
            raise ValueError(
                f"{key} are {images.dtype}; allowed with stream: uint8 in [0, 255]"
            )
        if images.ndim == 3:
            images = RandomRows.of((*images.shape, 1), images.dtype, images.gather)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        transposed = images.ndim == 4 and images.shape[1] in (1, 3)
        raise ValueError(
            f"{key} must have shape (N, H, W, 1 or 3) or (N, H, W), got {images.shape}"
            + (": transpose to (0, 2, 3, 1)" if transposed else "")
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise ValueError(f"{key} must be integers or floats, got {images.dtype}")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"{key} has NaN or infinite values")
    top = 1 if images.dtype.kind == "f" else 255
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    if low < 0 or high > top:
        raise ValueError(
            f"{key} must lie in [0, {top}] for {images.dtype}, got values from {low} "
            f"to {high}"
        )
    if images.dtype.kind == "f":
        # float16 cannot resolve the gray levels near 255.
        images = np.rint(images.astype(np.float32) * 255)
    return images.astype(np.uint8)


def _to_int32(key: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{key} must have shape (N,) or (N, 1), got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{key} must be integers, got {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels > np.iinfo(np.int32).max))
    if wrong.size:
        raise ValueError(
            f"{key} must not be negative nor exceed 31 bits, got {labels[wrong[0]]} "
            f"at index {wrong[0]}"
        )
    return labels.astype(np.int32)


def _count_classes(key: str, labels: np.ndarray) -> tuple[str, ...]:
    present = np.unique(labels)
    missing = np.flatnonzero(present != np.arange(present.size))
    if missing.size:
        raise ValueError(
            f"{key} must run through 0, 1, 2, ... without a gap, but has "
            f"{present[missing[0]]} and no {missing[0]}; if that is intended, store "
            "the classes as class_names"
        )
    return tuple(str(label) for label in range(present.size))
