"""``.npz`` files: written reproducibly, read without trust."""

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

    Equal arrays give equal bytes: there are no timestamps, and no compression, whose
    output depends on the version of zlib (images hardly shrink anyway).

    Args:
      file: a binary file, open for writing.
      arrays: the arrays, without Python objects.

    Example:
      >>> import io
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> file = io.BytesIO()
      >>> npz.write(file, {"a": np.arange(3)})
      >>> np.load(io.BytesIO(file.getvalue()))["a"].tolist()
      [0, 1, 2]
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

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/data.npz", a=np.arange(3))
      ...     npz.read(f"{folder}/data.npz")["a"].tolist()
      [0, 1, 2]
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


def unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """Returns the error for a file of arrays that cannot be read, in one line.

    Args:
      path: the file.
      error: what was raised.

    Returns:
      The error, for the caller to raise.

    Example:
      >>> from miue_jax.data import npz
      >>> print(npz.unreadable("a.npy", EOFError("no data left")))
      a.npy: truncated, damaged or not a file of arrays: no data left
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: truncated, damaged or not a file of arrays: {reason}")


def names(path: str | os.PathLike[str]) -> set[str]:
    """Returns the names of the arrays in a file.

    Args:
      path: the file.

    Returns:
      The names; none if it is not a ``.npz`` file.

    Example:
      >>> from miue_jax.data import npz
      >>> npz.names("missing.npz")
      set()
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.removesuffix(".npy") for member in archive.namelist()}
    except UNREADABLE:
        return set()


def _read_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        # zipfile checks the checksum when it reads to the end.
        if stream.read(1):
            raise ValueError(f"{member} is longer than its header says")
    return array
