"""Image classification data sets of TensorFlow Datasets, read without TensorFlow."""

import importlib.util
import os
from typing import Any

import numpy as np

from miue_jax.data import aligned, memory, records
from miue_jax.data.dataset import Dataset, of_rows, validate

INSTALL = "TFDS names need: pip install miue_jax[tfds]"


def installed() -> bool:
    """Tells whether TFDS is installed.

    Returns:
      Whether it can be imported.

    Example:
      >>> from miue_jax.data import tfds
      >>> tfds.installed() in (True, False)
      True
    """
    return importlib.util.find_spec("tensorflow_datasets") is not None


def names() -> tuple[str, ...]:
    """Lists the names of all TFDS data sets, of images or not.

    Returns:
      The names; none if TFDS is not installed.

    Example:
      >>> from miue_jax.data import tfds
      >>> ("cifar10" in tfds.names()) == tfds.installed()
      True
    """
    if not installed():
        return ()
    import tensorflow_datasets as tfds

    return tuple(tfds.list_builders(with_community_datasets=False))


def exists(name: str) -> bool:
    """Tells whether TFDS has a data set.

    Args:
      name: its name, perhaps with ``/config`` and ``:version``.

    Returns:
      Whether TFDS knows the name.

    Example:
      >>> from miue_jax.data import tfds
      >>> tfds.exists("no_such_data_set")
      False
    """
    return name.split("/")[0].split(":")[0] in names()


def load(
    name: str, split: str = "train", *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Reads a prepared data set through ``tfds.data_source``.

    Nothing is downloaded. Most data sets need TensorFlow once, to be prepared; the
    error for one that is not prepared gives the command.

    Args:
      name: for example "cifar10", "svhn_cropped" or "imagenet_resized/32x32".
      split: "train" or "test"; without a "test" split, "validation" is used.
      data_dir: where the prepared data are; None for TFDS's default.

    Returns:
      The data set, in TFDS's order, validated.

    Raises:
      ValueError: if TFDS is not installed or does not know the name, or the data are
        not prepared for random access or are not labeled images of one size.

    Example:
      >>> from miue_jax.data import tfds
      >>> train = tfds.load("cifar10")  # doctest: +SKIP
    """
    builder, source, split = _prepared(name, split, data_dir)
    image_key, label_key = _keys(name, builder)
    images: np.ndarray | None = None
    labels = np.empty(len(source), np.int32)
    for index, example in enumerate(source):
        image = np.asarray(example[image_key])
        if images is None:
            memory.check(
                len(source) * image.nbytes, f"{name!r}: its {len(source)} images"
            )
            images = aligned.empty((len(source), *image.shape), image.dtype)
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{name!r}: image {index} has shape {image.shape}, the first has "
                f"{images.shape[1:]}; all images must have one size"
            )
        images[index] = image
        labels[index] = example[label_key]
    if images is None:
        raise ValueError(f"{name!r}: split {split!r} is empty")
    class_names = tuple(builder.info.features[label_key].names)
    try:
        return validate(Dataset(images, labels, class_names))
    except ValueError as error:
        raise ValueError(f"{name!r}, split {split!r}: {error}") from error


def stream(
    name: str, split: str = "train", *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Opens a prepared data set, as `load` reads it, without reading its images.

    Args:
      name: for example "imagenet_resized/32x32".
      split: "train" or "test"; without a "test" split, "validation" is used.
      data_dir: where the prepared data are; None for TFDS's default.

    Returns:
      The data set, whose images are decoded when they are needed.

    Raises:
      ValueError: as `load`, reading images, too; or if Grain is not installed.

    Example:
      >>> from miue_jax.data import tfds
      >>> train = tfds.stream("cifar10")  # doctest: +SKIP
    """
    records.check_installed(f"{name!r}: records")
    builder, source, split = _prepared(name, split, data_dir)
    image_key, label_key = _keys(name, builder)
    _, plain, _ = _prepared(name, split, data_dir, skip_images=True)
    every = np.arange(len(plain))
    if not every.size:
        raise ValueError(f"{name!r}: split {split!r} is empty")
    found = records.ordered(every, lambda number: plain[number][label_key])
    labels = np.fromiter(found, np.int32, len(every))
    shape = np.shape(source[0][image_key])

    def read(number: int) -> np.ndarray:
        image = np.asarray(source[number][image_key])
        if image.shape != shape:
            raise ValueError(
                f"{name!r}: image {number} has shape {image.shape}, the first has "
                f"{shape}; all images must have one size"
            )
        return image

    images = records.rows(len(every), shape, read)
    class_names = tuple(builder.info.features[label_key].names)
    try:
        return validate(of_rows(images, labels, class_names))
    except ValueError as error:
        raise ValueError(f"{name!r}, split {split!r}: {error}") from error


def _prepared(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    skip_images: bool = False,
) -> tuple[Any, Any, str]:
    """The builder of a data set, the source of its records, and the split's name."""
    if not installed():
        raise ValueError(f"{name!r}: {INSTALL}")
    import tensorflow_datasets as tfds

    directory = None if data_dir is None else os.fspath(data_dir)
    try:
        builder = tfds.builder(name, data_dir=directory)
    except (ValueError, AssertionError, ImportError) as error:
        reason = next(filter(None, str(error).splitlines()), repr(error))
        raise ValueError(f"TFDS cannot build {name!r}: {reason}") from error
    image_key, _ = _keys(name, builder)
    splits = tuple(builder.info.splits)
    if split == "test" and "test" not in splits and "validation" in splits:
        split = "validation"
    if splits and split not in splits:
        raise ValueError(f"{name!r} has the splits {', '.join(splits)}, not {split!r}")
    try:
        # The decorated method is annotated without its `self`.
        read: Any = builder.as_data_source
        decoders = {image_key: tfds.decode.SkipDecoding()} if skip_images else None
        source = read(split, decoders=decoders)
    except (KeyError, NotImplementedError, ValueError, OSError) as error:
        raise ValueError(_not_prepared(name, builder, directory)) from error
    return builder, source, split


def _keys(name: str, builder: Any) -> tuple[str, str]:
    """Returns the keys of the image and of the label in an example."""
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    kinds = {key: type(features[key]).__name__ for key in features}
    # Supervised keys may be nested, but not those of labeled images.
    found = [kinds.get(key) if isinstance(key, str) else None for key in keys]
    if found != ["Image", "ClassLabel"]:
        raise ValueError(
            f"{name!r} is not a set of images with class labels: it has "
            + ", ".join(f"{key} ({kind})" for key, kind in kinds.items())
        )
    return keys[0], keys[1]


def _not_prepared(name: str, builder: Any, directory: str | None) -> str:
    where = "" if directory is None else f"data_dir={directory!r}, "
    command = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}, {where}file_format='array_record')"
        '.download_and_prepare()"'
    )
    if builder.is_prepared():
        return (
            f"{name!r} is prepared in {builder.data_path} as "
            f"{builder.info.file_format.value}, which needs TensorFlow; prepare it in "
            f"another data_dir as array_record: {command}"
        )
    return (
        f"{name!r} is not prepared in {builder.data_path}; this needs TensorFlow and "
        f"the network once: pip install tensorflow-cpu && {command}"
    )
