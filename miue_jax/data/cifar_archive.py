"""CIFAR-10 and CIFAR-100 in their original binary version.

References:
  Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
  https://www.cs.toronto.edu/~kriz/cifar.html, section "Binary version".
"""

import os
import pathlib
import tarfile
import zlib
from typing import NamedTuple

import numpy as np

from miue_jax.data.dataset import Dataset, validate

_SIDE = 32


class _Layout(NamedTuple):
    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    # Images per file of each split.
    records: dict[str, int]
    # Bytes before the pixels; the last one is the (fine) label.
    label_bytes: int
    class_names: str
    num_classes: int


_LAYOUTS = (
    _Layout(
        name="cifar-10",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        records={"train": 10_000, "test": 10_000},
        label_bytes=1,
        class_names="batches.meta.txt",
        num_classes=10,
    ),
    _Layout(
        name="cifar-100",
        train=("train.bin",),
        test=("test.bin",),
        records={"train": 50_000, "test": 10_000},
        label_bytes=2,
        class_names="fine_label_names.txt",
        num_classes=100,
    ),
)
# Files of the Python versions, which are pickles. Some names are so common that one
# file alone means nothing.
_PICKLES = {
    "cifar-10": {"batches.meta", "data_batch_1", "test_batch"},
    "cifar-100": {"meta", "train", "test"},
}


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is a tar file, or a folder with files of either version.

    Args:
      path: an existing file or folder.

    Returns:
      Whether `load` should read it, whether or not it will succeed.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.data import cifar_archive
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     pathlib.Path(folder, "data_batch_1.bin").touch()
      ...     cifar_archive.is_archive(folder)
      True
    """
    path = pathlib.Path(path)
    if path.is_file():
        return path.name.endswith((".tar", ".tar.gz", ".tgz")) or _is_tar(path)
    files = {file.name for file in path.iterdir() if file.is_file()}
    known = {name for layout in _LAYOUTS for name in (*layout.train, *layout.test)}
    return bool(files & known) or _pickled(files) is not None


def load(path: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Reads ``cifar-10-binary.tar.gz``, ``cifar-100-binary.tar.gz`` or their folders.

    CIFAR-100 gets its 100 fine labels.

    Args:
      path: the archive, or the folder it unpacks to.
      split: "train" or "test".

    Returns:
      50,000 or 10,000 images of 32x32x3 with their labels and class names.

    Raises:
      ValueError: naming the file, if files are missing or truncated, labels are out of
        range, or it is the Python version, which is a pickle and never opened.

    Example:
      >>> from miue_jax.data import cifar_archive
      >>> train = cifar_archive.load("cifar-10-binary.tar.gz")  # doctest: +SKIP
    """
    path = pathlib.Path(path)
    files = _read_folder(path, split) if path.is_dir() else _read_tar(path, split)
    layout = _recognize(path, files)
    images, labels = [], []
    for name in getattr(layout, split):
        image, label = _parse(path, name, _get(path, files, name), layout, split)
        images.append(image)
        labels.append(label)
    text = _get(path, files, layout.class_names).decode("utf-8", errors="replace")
    class_names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(class_names) != layout.num_classes:
        raise ValueError(
            f"{path}: {layout.class_names} must name {layout.num_classes} classes, "
            f"it names {len(class_names)}"
        )
    dataset = Dataset(np.concatenate(images), np.concatenate(labels), class_names)
    return validate(dataset)


def _parse(
    path: pathlib.Path, name: str, content: bytes, layout: _Layout, split: str
) -> tuple[np.ndarray, np.ndarray]:
    record = layout.label_bytes + 3 * _SIDE * _SIDE
    expected = layout.records[split] * record
    if len(content) != expected:
        raise ValueError(
            f"{path}: {name} must have {expected} bytes, it has {len(content)}; "
            "it is truncated or not from the binary version"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, layout.label_bytes - 1].astype(np.int32)
    wrong = np.flatnonzero(labels >= layout.num_classes)
    if wrong.size:
        raise ValueError(
            f"{path}: {name} has label {labels[wrong[0]]} at image {wrong[0]}, the "
            f"largest allowed is {layout.num_classes - 1}"
        )
    planes = rows[:, layout.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
    return planes.transpose(0, 2, 3, 1), labels


def _wanted(split: str) -> set[str]:
    return {
        name
        for layout in _LAYOUTS
        for name in (*getattr(layout, split), layout.class_names)
    }


def _read_folder(path: pathlib.Path, split: str) -> dict[str, bytes | None]:
    """Returns the files by name, with None for contents that are not needed."""
    wanted = _wanted(split)
    try:
        return {
            file.name: file.read_bytes() if file.name in wanted else None
            for file in path.iterdir()
            if file.is_file()
        }
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def _read_tar(path: pathlib.Path, split: str) -> dict[str, bytes | None]:
    wanted = _wanted(split)
    files: dict[str, bytes | None] = {}
    try:
        # As a stream: members are read on the way, and nothing is unpacked to disk.
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = pathlib.PurePosixPath(member.name).name
                if member.isfile():
                    content = archive.extractfile(member) if name in wanted else None
                    files[name] = content.read() if content else None
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"{path}: not a readable tar archive, perhaps truncated ({error})"
        ) from error
    return files


def _is_tar(path: pathlib.Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):
        return False


def _recognize(path: pathlib.Path, files: dict[str, bytes | None]) -> _Layout:
    for layout in _LAYOUTS:
        if set(files) & {*layout.train, *layout.test}:
            return layout
    version = _pickled(set(files))
    if version is not None:
        raise ValueError(
            f"{path}: is the Python version, whose files are pickles and are not "
            f"opened; download {version}-binary.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    raise ValueError(
        f"{path}: holds no CIFAR-10 or CIFAR-100 binary files (data_batch_1.bin or "
        "train.bin); if it holds image folders, unpack it and give the folder"
    )


def _pickled(files: set[str]) -> str | None:
    """Returns the data set whose Python version the files are from, or None."""
    for version, names in _PICKLES.items():
        if len(files & names) > 1:
            return version
    return None


def _get(path: pathlib.Path, files: dict[str, bytes | None], name: str) -> bytes:
    content = files.get(name)
    if content is None:
        raise ValueError(f"{path}: {name} is missing")
    return content
