"""Data sets by name, by path, or from a user-defined function."""

import dataclasses
import os
import pathlib
from typing import Any

from miue_jax._checks import check_choice, check_number, shown, unknown
from miue_jax._rows import RandomRows
from miue_jax.data import (
    arrays,
    bucket,
    cifar_archive,
    folder,
    shapes,
    tfds,
    user_defined,
    webdataset,
)
from miue_jax.data.dataset import (
    Dataset,
    class_indices,
    file_names,
    fingerprint,
    subset,
    validate,
    with_names,
)

__all__ = [
    "SPLITS",
    "DataSource",
    "Dataset",
    "class_indices",
    "fingerprint",
    "load",
    "source",
    "stream",
    "subset",
    "validate",
]

SPLITS = ("train", "test")

# Images in each split of the default data set.
_NUM_SHAPES = {"train": 5000, "test": 2000}
_SUFFIXES = (".npz", ".tar", ".gz", ".tgz", ".bin", ".zip", ".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A data set by name, and the part of it to load.

    Attributes:
      name: a name or path, see `load`.
      split: train or test.
      per_class: images per class, for a balanced subset; None for all images.
      seed: seed of the subset, and of procedural images.
      data_dir: where TFDS keeps its prepared data; None for its default.

    Raises:
      ValueError: if a field has another type or value.

    Example:
      >>> from miue_jax import data
      >>> data.DataSource("shapes", split="test", per_class=2).load().labels.shape
      (20,)
    """

    name: str = "shapes"
    _: dataclasses.KW_ONLY
    split: str = "train"
    per_class: int | None = None
    seed: int = 0
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "data_dir"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                # JSON has no paths.
                object.__setattr__(self, name, os.fspath(value))
            elif not isinstance(value, str) and (name == "name" or value is not None):
                raise ValueError(f"data {name} is {shown(value)}; it must be a string")
        _check_part(self.split, self.per_class, self.seed)

    def load(self) -> Dataset:
        """Loads the data set, see `miue_jax.data.load`."""
        given = dataclasses.asdict(self)
        return load(given.pop("name"), **given)

    def stream(self, *, verify: bool = True) -> Dataset:
        """Opens the data set, see `miue_jax.data.stream`."""
        given = dataclasses.asdict(self)
        return stream(given.pop("name"), **given, verify=verify)


def source(given: object, split: str = "train") -> "DataSource | Dataset":
    """Converts what workflows take as data.

    Args:
      given: a name or path, a `DataSource` or a `Dataset`.
      split: train or test, of a name or path.

    Returns:
      A `DataSource`, or the `Dataset` itself.

    Raises:
      ValueError: if it is something else.

    Example:
      >>> from miue_jax import data
      >>> data.source("shapes", "test").split
      'test'
    """
    if isinstance(given, DataSource | Dataset):
        return given
    if isinstance(given, str | os.PathLike):
        return DataSource(os.fspath(given), split=split)
    raise ValueError(
        f"data are a {type(given).__name__}; allowed: a name or path, a DataSource, or "
        "a Dataset(images, labels, class_names)"
    )


def load(
    name_or_path: str | os.PathLike[str] | Dataset,
    split: str = "train",
    *,
    per_class: int | None = None,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads a data set.

    It is one of these, in order of precedence:

    - "shapes", ten classes of procedural images that need no download;
    - an existing path, or an address in a bucket (s3://, gs://): an image folder with
      one folder per class, perhaps below ``train`` and ``test`` (or ``val``); a folder
      of WebDataset's ``.tar`` shards; a ``.npz`` file of arrays; a protected data set;
      or an original CIFAR binary archive;
    - ``module:function``, a function that returns ``(images, labels)``, ``(images,
      labels, class_names)`` or a `Dataset`. It is called with the split if it has a
      parameter ``split``; otherwise it has only the split "train";
    - the name of a TFDS data set, such as "cifar10" (needs ``miue_jax[tfds]``);
    - a `Dataset`; the split is ignored.

    Images are (N, H, W, C) or, gray, (N, H, W): integers in [0, 255], or floats in
    [0, 1], which are rounded to 8 bits.

    Args:
      name_or_path: the data set.
      split: "train" or "test".
      per_class: images per class, for a balanced subset; None for all images.
      seed: seed of the procedural images ("shapes") and of the subset.
      data_dir: where TFDS keeps its prepared data; None for its default.

    Returns:
      The data set, validated.

    Raises:
      ValueError: if the name is unknown (with the nearest ones), the path does not
        exist or cannot be read, the split is missing, the data are not valid, or a
        class has fewer than `per_class` images.

    Example:
      >>> from miue_jax import data
      >>> data.load("shapes", "test", per_class=2).images.shape
      (20, 32, 32, 3)
    """
    _check_part(split, per_class, seed)
    if isinstance(name_or_path, Dataset):
        dataset = validate(name_or_path)
    else:
        # What a loader returns has been validated.
        dataset = _load(name_or_path, split, per_class or 0, seed, data_dir)
    if per_class is None:
        return dataset
    return subset(dataset, per_class=per_class, seed=seed)


def stream(
    name_or_path: str | os.PathLike[str],
    split: str = "train",
    *,
    per_class: int | None = None,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    verify: bool = True,
) -> Dataset:
    """Opens a data set whose images are read when they are needed.

    They are those of `load`. Read when they are needed are an image folder, a TFDS
    data set and shards of WebDataset (all need ``miue_jax[stream]``), and the arrays
    of an uncompressed ``.npz`` file, that of a protected data set included. Others are
    loaded.

    Args:
      name_or_path: the data set, see `load`.
      split: "train" or "test".
      per_class: images per class, for a balanced subset; None for all images.
      seed: seed of the procedural images ("shapes") and of the subset.
      data_dir: where TFDS keeps its prepared data; None for its default.
      verify: whether to read the images of a protected data set once, to check them
        against its metadata.

    Returns:
      The data set. Slices of its images are arrays.

    Raises:
      ValueError: as `load`.

    Example:
      >>> from miue_jax import data
      >>> data.stream("shapes", "test", per_class=2).images.shape
      (20, 32, 32, 3)
    """
    _check_part(split, per_class, seed)
    name = os.fspath(name_or_path)
    path, exists = _look_up(name)
    if bucket.is_address(name):
        dataset = _stream_copy(name, split, verify=verify)
    elif name != "shapes" and exists:
        dataset = _load_path(path, split, streamed=True, verify=verify)
    elif (
        name != "shapes"
        and not user_defined.is_name(name)
        and not (isinstance(name_or_path, os.PathLike) or _looks_like_path(name))
        and tfds.exists(name)
    ):
        dataset = tfds.stream(name, split, data_dir=data_dir)
    else:
        dataset = _load(name_or_path, split, per_class or 0, seed, data_dir)
    if per_class is None:
        return dataset
    return subset(dataset, per_class=per_class, seed=seed)


def _stream_copy(name: str, split: str, *, verify: bool) -> Dataset:
    """Opens a local copy of data in a bucket, which lasts as long as the images."""
    address = bucket.place(name)
    assert isinstance(address, bucket.Address)  # as the name is one
    copy = bucket.Copy(address)
    with copy.naming():
        if not copy.path.exists():
            raise ValueError(f"{copy.path}: no such file or folder")
        dataset = _load_path(copy.path, split, streamed=True, verify=verify)
    images: Any = dataset.images
    if isinstance(images, RandomRows):
        images = copy.rows(images)
    return with_names(dataset._replace(images=images), file_names(dataset))


def _check_part(split: object, per_class: object, seed: object) -> None:
    check_choice("split", split, SPLITS)
    if per_class is not None:
        check_number("per_class", per_class, "> 0", whole=True)
    check_number("seed", seed, ">= 0", whole=True)


def _load(
    given: str | os.PathLike[str],
    split: str,
    per_class: int,
    seed: int,
    data_dir: str | os.PathLike[str] | None,
) -> Dataset:
    name = os.fspath(given)
    if bucket.is_address(name):
        with bucket.local(name) as copy:
            if not copy.exists():
                raise ValueError(f"{name}: no such file or folder")
            return _load_path(copy, split)
    path, exists = _look_up(name)
    if name == "shapes":
        # A subset that is larger than the default is generated, not refused.
        count = max(_NUM_SHAPES[split], per_class * len(shapes.CLASS_NAMES))
        return shapes.generate(count, seed=seed, split=split)
    if exists:
        return _load_path(path, split)
    if user_defined.is_name(name):
        return user_defined.load(name, split)
    if isinstance(given, os.PathLike) or _looks_like_path(name):
        raise ValueError(f"{name}: no such file or folder")
    if tfds.exists(name):
        return tfds.load(name, split, data_dir=data_dir)
    install = "" if tfds.installed() else f" ({tfds.INSTALL})"
    allowed = ("'shapes'", "an existing path", f"a TFDS name{install}")
    raise unknown(
        "data set",
        name,
        ("shapes", *tfds.names()),
        allowed=(*allowed, "module:function"),
    )


def _look_up(name: str) -> tuple[pathlib.Path, bool]:
    """Returns the name as a path, and whether it exists."""
    try:
        path = pathlib.Path(name).expanduser()
        return path, bool(name) and path.exists()
    except (OSError, RuntimeError) as error:  # too long, or of an unknown user
        raise ValueError(f"{name}: cannot be looked up ({error})") from error


def _load_path(
    path: pathlib.Path, split: str, *, streamed: bool = False, verify: bool = True
) -> Dataset:
    if path.is_dir():
        if cifar_archive.is_archive(path):
            return cifar_archive.load(path, split)
        kind = webdataset if webdataset.is_folder(path) else folder
        return kind.stream(path, split) if streamed else kind.load(path, split)
    if not path.is_file():
        # Reading a pipe would wait for a writer.
        raise ValueError(f"{path}: is neither a file nor a folder")
    if path.suffix == ".npz":
        from miue_jax.data import artifact  # heavy: image metrics

        if not artifact.is_artifact(path):
            kind = arrays.stream if streamed else arrays.load
            return kind(path, split)
        if split != "train":
            raise ValueError(
                f"{path}: a protected data set has only a 'train' split; evaluate on "
                "the clean test images"
            )
        return artifact.load(path, stream=streamed, verify=verify).dataset
    if cifar_archive.is_archive(path):
        return cifar_archive.load(path, split)
    raise ValueError(
        f"{path}: not a data set: give an image folder, a .npz file, or an original "
        "CIFAR binary archive (.tar.gz)"
    )


def _looks_like_path(name: str) -> bool:
    if name.startswith((".", "~", "/")) or "\\" in name:
        return True
    if name.lower().endswith(_SUFFIXES):
        return True
    # TFDS names configurations with a slash, as in "imagenet_resized/32x32".
    return "/" in name and tfds.installed() and not tfds.exists(name)
