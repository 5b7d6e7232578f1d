"""``.npz`` files: written reproducibly, read without trust."""

import lzma
import math
import os
import pathlib
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, BinaryIO

import numpy as np

from miue_jax._checks import one_line, shown
from miue_jax.data import atomic, memory

# What NumPy and zipfile raise on files that are damaged or something else.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
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
        a ``.npz`` file, or holds Python objects or more than there is memory for.

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
            members = archive.namelist()
            needed = sum(_declared(archive, member) for member in members)
            memory.check(needed, f"its {len(members)} arrays")
            return {
                member.removesuffix(".npy"): _read_member(archive, member)
                for member in members
            }
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a ``.npy`` file without executing anything.

    Args:
      path: the file.

    Returns:
      The array.

    Raises:
      ValueError: in one line naming the file, if it is truncated, damaged, not such a
        file, or holds Python objects or more than there is memory for.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.save(f"{folder}/a.npy", np.arange(3))
      ...     npz.read_npy(f"{folder}/a.npy").tolist()
      [0, 1, 2]
    """
    atomic.check_file(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            declared = declared_bytes(file)
            held = size - file.tell()
            # Before as much is allocated as a damaged header says.
            if declared > held:
                raise ValueError(f"its header says {declared} bytes, it holds {held}")
            memory.check(declared, "its array")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def declared_bytes(file: IO[bytes]) -> int:
    """Reads the header of an array.

    Args:
      file: a binary file at the beginning of an ``.npy`` file.

    Returns:
      The bytes of the array that follows, as the header declares it.

    Raises:
      ValueError: if it is no such header.

    Example:
      >>> import io
      >>> import numpy as np
      >>> from miue_jax.data import npz
      >>> file = io.BytesIO()
      >>> np.save(file, np.zeros((2, 3)))
      >>> npz.declared_bytes(io.BytesIO(file.getvalue()))
      48
    """
    version = np.lib.format.read_magic(file)
    # Versions 2 and 3 differ in the characters that names of fields may have.
    header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    with warnings.catch_warnings():
        # A damaged header may read like odd code.
        warnings.simplefilter("ignore", SyntaxWarning)
        shape, _, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are pickles")
    return math.prod(max(0, size) for size in shape) * dtype.itemsize


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
    reason = one_line(str(error)) or type(error).__name__
    # These say nothing about what is in the file.
    if isinstance(error, memory.Exceeded):
        return ValueError(f"{path}: {reason}")
    if isinstance(error, PermissionError):
        return ValueError(f"{path}: permission denied")
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


def _declared(archive: zipfile.ZipFile, member: str) -> int:
    with archive.open(member) as stream:
        return declared_bytes(stream)


def _read_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        # zipfile checks the checksum when it reads to the end.
        if stream.read(1):
            raise ValueError(f"{shown(member)} is longer than its header says")
    return array
