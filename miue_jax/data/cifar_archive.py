"""CIFAR-10 and CIFAR-100 in their original binary version.

References:
  Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
  https://www.cs.toronto.edu/~kriz/cifar.html, section "Binary version".
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from miue_jax._checks import one_line
from miue_jax.data import aligned
from miue_jax.data.dataset import Dataset, validate

_SIDE = 32

# Bytes of the largest file of either version (CIFAR-100's training images have 154
# million), and of all of them; members that are looked at.
_LARGEST_FILE = 160_000_000
_LARGEST = 400_000_000
_MOST_FILES = 1000

_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


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
    pixels = aligned.empty((sum(map(len, images)), *images[0].shape[1:]))
    np.concatenate(images, out=pixels)
    return validate(Dataset(pixels, np.concatenate(labels), class_names))


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
    files: dict[str, bytes | None] = {}
    try:
        for file in path.iterdir():
            if file.is_file():
                files[file.name] = None
                if file.name in wanted:
                    _check_size(path, file.name, file.stat().st_size)
                    files[file.name] = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    return files


def _read_tar(path: pathlib.Path, split: str) -> dict[str, bytes | None]:
    wanted = _wanted(split)
    files: dict[str, bytes | None] = {}
    try:
        # As a stream: members are read on the way, and nothing is unpacked to disk.
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = pathlib.PurePosixPath(member.name).name
                if member.isfile() and len(files) < _MOST_FILES:
                    files[name] = None
                    content = tar.extractfile(member) if name in wanted else None
                    if content is not None:
                        _check_size(path, name, member.size)
                        files[name] = content.read()
    except (*_UNREADABLE, tarfile.TarError) as error:
        reason = one_line(str(error))
        raise ValueError(
            f"{path}: not a readable tar archive, perhaps truncated ({reason})"
        ) from error
    return files


def _check_size(path: pathlib.Path, name: str, size: int) -> None:
    if size > _LARGEST_FILE:
        raise ValueError(
            f"{path}: {name} has {size} bytes; allowed: at most {_LARGEST_FILE}"
        )


class _Unpacked(io.RawIOBase):
    """A compressed file as it is unpacked, up to a bound: a small one may hold much."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._left = _LARGEST

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size < self._left else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {_LARGEST} bytes")
        return data


@contextlib.contextmanager
def _unpacked(path: pathlib.Path) -> Iterator[_Unpacked]:
    with open(path, "rb") as packed:
        start = packed.read(6)
        packed.seek(0)
        opened = next(
            (opened for magic, opened in _PACKED.items() if start.startswith(magic)),
            None,
        )
        with contextlib.nullcontext(packed) if opened is None else opened(packed) as f:
            yield _Unpacked(f)


def _is_tar(path: pathlib.Path) -> bool:
    try:
        with _unpacked(path) as stream:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "replace")
    except (*_UNREADABLE, tarfile.HeaderError):
        return False
    return True


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
        "train.bin); if it holds image folders, unpack it and give the folder; "
        "if it is a WebDataset shard, give the folder that it lies in"
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
