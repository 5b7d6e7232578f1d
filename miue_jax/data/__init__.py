"""Data sets by name or by path, and the protected data set."""

import dataclasses
import os
import pathlib

from miue_jax import _checks
from miue_jax._checks import check_number
from miue_jax.data import arrays, cifar_archive, folder, shapes, tfds, user_defined
from miue_jax.data.dataset import (
    Dataset,
    class_indices,
    fingerprint,
    subset,
    validate,
)

__all__ = [
    "SPLITS",
    "DataSource",
    "Dataset",
    "class_indices",
    "fingerprint",
    "load",
    "subset",
    "validate",
]

SPLITS = ("train", "test")

# Images of the default data set for each split.
_NUM_SHAPES = {"train": 5000, "test": 2000}
_SUFFIXES = (".npz", ".tar", ".gz", ".tgz", ".bin", ".zip", ".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class DataSource:
    """The name of a data set, and which part of it.

    Attributes:
      name: a name or path, see `load`.
      split: train or test.
      per_class: images of each class, of a balanced subset; None for all.
      seed: of the subset, and of procedural images.
      data_dir: where TFDS keeps its prepared data.

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

    def load(self) -> Dataset:
        """Loads the data set, see `load`."""
        return load(
            self.name,
            self.split,
            per_class=self.per_class,
            seed=self.seed,
            data_dir=self.data_dir,
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

    Args:
      name_or_path: "shapes"; a path: an image folder (see `folder.load`), a `.npz` file
        of arrays (`arrays.load`) or a protected data set, an original CIFAR binary
        archive (`cifar_archive.load`); the name of a TFDS data set (`tfds.load`); or
        module:function (see `user_defined.load`). An existing path takes precedence. A
        `Dataset` is returned as it is.
      split: "train" or "test".
      per_class: images per class, of a balanced subset; None for all images.
      seed: of the procedural images (for "shapes") and of the subset.
      data_dir: where TFDS keeps its prepared data; its own default when None.

    Returns:
      The data set, validated.

    Raises:
      ValueError: on an unknown name (with the nearest ones), a path that does not exist
        or cannot be read, a missing split, a class with fewer than `per_class` images.

    Example:
      >>> from miue_jax import data
      >>> data.load("shapes", "test", per_class=2).images.shape
      (20, 32, 32, 3)
    """
    if isinstance(name_or_path, Dataset):
        return validate(name_or_path)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    name = os.fspath(name_or_path)
    if per_class is not None:
        check_number("per_class", per_class, "> 0", whole=True)
    path, exists = _look_up(name)
    if name == "shapes":
        num_classes = len(shapes.CLASS_NAMES)
        # A subset that is larger than the default is generated, not refused.
        count = max(_NUM_SHAPES[split], (per_class or 0) * num_classes)
        dataset = shapes.generate(count, seed=seed, split=split)
    elif exists:
        dataset = _load_path(path, split)
    elif user_defined.is_name(name):
        dataset = user_defined.load(name, split)
    elif isinstance(name_or_path, os.PathLike) or _looks_like_path(name):
        raise ValueError(f"{name}: no such file or folder")
    elif tfds.exists(name):
        dataset = tfds.load(name, split, data_dir=data_dir)
    else:
        raise _unknown(name)
    validate(dataset)
    if per_class is None:
        return dataset
    return subset(dataset, per_class=per_class, seed=seed)


def _look_up(name: str) -> tuple[pathlib.Path, bool]:
    """The name as a path, and whether it is there."""
    try:
        path = pathlib.Path(name).expanduser()
        return path, bool(name) and path.exists()
    except (OSError, RuntimeError) as error:  # too long; of an unknown user
        raise ValueError(f"{name}: cannot be looked up ({error})") from error


def _load_path(path: pathlib.Path, split: str) -> Dataset:
    if path.is_dir():
        if cifar_archive.is_archive(path):
            return cifar_archive.load(path, split)
        return folder.load(path, split)
    if path.suffix == ".npz":
        from miue_jax.data import artifact

        if not artifact.is_artifact(path):
            return arrays.load(path, split)
        if split != "train":
            raise ValueError(
                f"{path}: a protected data set has only a 'train' split; evaluate on "
                "the clean test images"
            )
        return artifact.load(path).dataset
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
    # TFDS writes configurations with a slash, as in "imagenet_resized/32x32".
    return "/" in name and tfds.installed() and not tfds.exists(name)


def _unknown(name: str) -> ValueError:
    install = "" if tfds.installed() else f" ({tfds.INSTALL})"
    allowed = (
        *("'shapes'", "an existing path", f"a TFDS name{install}"),
        "module:function",
    )
    return _checks.unknown("data set", name, ("shapes", *tfds.names()), allowed=allowed)
