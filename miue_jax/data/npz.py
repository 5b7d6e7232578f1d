"""``.npz`` files: written to the same bytes every time, read without trust."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

# What NumPy and zipfile raise on files that are damaged or something else.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, as `numpy.load` reads them.

    Equal arrays give equal bytes: no times, and no compression, whose output depends on
    the version of zlib (images hardly shrink anyway).

    Args:
      file: a binary file, open for writing.
      arrays: the arrays; none of Python objects.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array(
                    stream, np.asarray(array, order="C"), allow_pickle=False
                )
    file.flush()


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays and checks their checksums, without executing anything.

    Args:
      path: the file.

    Returns:
      The arrays by name.

    Raises:
      ValueError: in one line naming the file, if it is missing, truncated, damaged, not
        a ``.npz`` file, or holds Python objects.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        problem = "is a directory" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {problem}")
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                member.removesuffix(".npy"): _read_member(archive, member)
                for member in archive.namelist()
            }
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def unreadable(path: pathlib.Path, error: Exception) -> ValueError:
    """One line that says that a file of arrays cannot be read, and why."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: truncated, damaged or not a file of arrays: {reason}")


def names(path: str | os.PathLike[str]) -> set[str]:
    """The names of the arrays in a file; none if it is not a ``.npz`` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.removesuffix(".npy") for member in archive.namelist()}
    except UNREADABLE:
        return set()


def _read_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        # Reading to the end is what makes zipfile check the checksum.
        if stream.read(1):
            raise ValueError(f"{member} is longer than its header says")
    return array
